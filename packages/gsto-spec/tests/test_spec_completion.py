"""What a shell completes of `gsto-spec`."""

from click.shell_completion import get_completion_class

from gsto_spec import architectures
from gsto_spec.cli import main


def offered(*words: str) -> list[str]:
    shell = get_completion_class("zsh")
    assert shell is not None
    found = shell(main, {}, "gsto-spec", "_UNUSED").get_completions(list(words[:-1]), words[-1])
    return [each.value if each.type == "plain" else each.type for each in found]


def test_subcommands_options_and_architectures_are_completed() -> None:
    assert offered("sh") == ["show"]
    assert "--size" in offered("cost", "--")
    assert offered("show", "") == list(architectures())
    assert offered("cost", "pose-gsto-hrnet-w4") == ["pose-gsto-hrnet-w48"]
    assert offered("show", "--form", "p") == ["paper"]
    assert offered("table", "1") == ["1", "10"]


def test_files_are_completed_where_no_architecture_begins_so() -> None:
    assert offered("cost", "mine") == offered("diff", "hrnetv2-w48", "mine") == ["file"]
