"""What a shell offers for an option's value: names, settings, files; click asks when Tab is pressed."""

import os
from collections.abc import Callable, Iterable
from typing import get_args

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    split_arg_string,
)

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_BASH = """
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                printf -v value %%q "$value"
                COMPREPLY+=("$value")
                [[ $value != *= ]] || compopt -o nospace ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(BashComplete):
    """bash, which takes "=" for the end of a word: settings are read whole, and answered by their last word.

    No space follows a setting's "=", which click's own script cannot do.
    """

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words before the cursor's, and the cursor's."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        return (words, "") if line[-1:].isspace() or not words else (words[:-1], words[-1])

    def format_completion(self, item: CompletionItem) -> str:
        """Return an offer without what the line has up to the last "=" already."""
        typed = self.get_completion_args()[1].rpartition("=")[0]
        key, sign, choice = item.value.partition("=")
        return f"{item.type},{choice if sign and typed.endswith(key) and choice else item.value}"


def _names(names: Callable[[], Iterable[str]], *, files: bool = False) -> Completion:
    """Offer those of `names` that begin as what is typed, and files where the option takes them, too."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        return found if found or not files else [CompletionItem(incomplete, type="file")]

    return complete


def _places(kind: str) -> Completion:
    return lambda context, parameter, incomplete: [CompletionItem(incomplete, type=kind)]


def _benchmarks() -> Iterable[str]:
    from gsto_train import benchmarks

    return benchmarks.names()


def _architectures() -> Iterable[str]:
    from gsto_spec import architectures

    return architectures()


def _backends() -> Iterable[str]:
    from gsto_spec.backend import backends

    return backends()


def _assignments(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the settings, and behind one's "=" the words that it takes."""
    from gsto_train.schema import choices, describe
    from gsto_train.settings import Settings

    key, sign, _ = incomplete.partition("=")
    words = choices(Settings, key) if sign else ("",)
    keys = [key] if sign else list(describe(Settings))
    offered = (f"{name}={word}" for name in keys for word in words)
    return [CompletionItem(each) for each in offered if each.startswith(incomplete)]


def _precisions() -> Iterable[str]:
    from gsto_spec.precision import Precision

    return get_args(Precision)


BENCHMARKS = _names(_benchmarks, files=True)
ARCHITECTURES = _names(_architectures, files=True)
BACKENDS = _names(_backends)
SETTINGS = _assignments
DEVICES = _names(lambda: ("auto", "cpu", "cuda"))
PRECISIONS = _names(_precisions)
FOLDERS, FILES = _places("dir"), _places("file")
