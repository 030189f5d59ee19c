"""Options that several commands share, with what a shell offers for their values."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from gsto_train.commands import completion

if TYPE_CHECKING:
    from gsto_spec import Graph
    from gsto_train.convert import Reading

Function = TypeVar("Function", bound=Callable[..., Any])
Option = Callable[[Function], Function]

FormName = Literal["release", "paper"]

ARCHITECTURE = "NAME|DIR|FILE.json|MODULE:ATTRIBUTE"
"""What names a network, as `gsto_spec.locate` reads it."""


class _PathText(click.types.StringParamType):
    """A path as text, of which there is some: of an empty one `Path` would make the folder worked in."""

    name = "path"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        return value or self.fail("expected a path, found nothing; give one", parameter, context)


PATH_TEXT = _PathText()


class SettingsCommand(click.Command):
    """A command with --set, which tells of an unknown option that is a setting how to give that."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; raises its `UsageError`."""
        given = list(args)  # Parsing empties it.
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if (hint := _setting_hint(error.option_name, given)) is None:
                raise
            raise click.UsageError(f"No such option: {error.option_name}; it is a setting: {hint}") from None


def _setting_hint(option: str, given: list[str]) -> str | None:
    """Return what to give in place of an option that is a setting's name; None for any other."""
    from gsto_train.schema import named
    from gsto_train.settings import Settings

    key = named(Settings, option.lstrip("-").replace("-", "_"))
    joined = (text.partition("=")[2] for text in given if text.startswith(f"{option}="))
    after = (value for text, value in pairwise(given) if text == option)
    value = next((text for text in (*joined, *after) if text and not text.startswith("-")), "VALUE")
    return key and shlex.join(["--set", f"{key}={value}"])


@dataclass(frozen=True)
class NetworkOptions:
    """What `network_options` say of a file of tensors: whose they are, and how they are meant."""

    architecture: str | None = None
    classes: int | None = None
    form: FormName | None = None
    inplace_abn: bool | None = None

    def __post_init__(self) -> None:
        if self.architecture is None and (self.classes or self.form):
            raise click.UsageError(
                "--classes and --form change the network that --architecture names: give it"
            )

    def graph(self) -> "Graph | None":
        """Return the network; raises gsto_spec's error."""
        from gsto_spec.locate import locate

        if self.architecture is None:
            return None
        return locate(self.architecture, classes=self.classes, form=self.form)

    def reading(self) -> "Reading | None":
        """Return how batch norms' scales are read, None where nothing was said."""
        from gsto_train.convert import Reading

        return None if self.inplace_abn is None else Reading(self.inplace_abn)


def network_options(command: Function) -> Function:
    """Add --architecture, --classes, --form and --inplace-abn: the fields of `NetworkOptions`."""
    for option in reversed(_NETWORK):
        command = option(command)
    return command


def backend_option(text: str) -> Option[Any]:
    """Return --backend."""
    return click.option(
        "--backend", metavar="NAME|MODULE:ATTRIBUTE", help=text, shell_complete=completion.BACKENDS
    )


def benchmark_option(text: str) -> Option[Any]:
    """Return --benchmark."""
    return click.option(
        "--benchmark", metavar="NAME|FILE.toml", help=text, shell_complete=completion.BENCHMARKS
    )


def architecture_option(text: str) -> Option[Any]:
    """Return --architecture."""
    return click.option(
        "--architecture", metavar=ARCHITECTURE, help=text,
        shell_complete=completion.ARCHITECTURES,
    )  # fmt: skip


def data_option(text: str) -> Option[Any]:
    """Return --data; `gsto_train.benchmarks.data_variables` says which variables are its default."""
    return click.option(
        "--data",
        type=PATH_TEXT,
        metavar="DIR",
        help=f"{text}  [$GSTO_DATA_BENCHMARK]",
        shell_complete=completion.FOLDERS,
    )


def set_option(example: str) -> Option[Any]:
    """Return --set, whose values are the parameter `assignments`."""
    return click.option(
        "--set", "assignments", metavar="KEY=VALUE", multiple=True, shell_complete=completion.SETTINGS,
        help=f"Change a setting, as in {example}; repeatable.",
    )  # fmt: skip


def device_option(text: str) -> Option[Any]:
    """Return --device."""
    return click.option("--device", metavar="auto|cpu|cuda", help=text, shell_complete=completion.DEVICES)


def precision_option(text: str) -> Option[Any]:
    """Return --precision."""
    return click.option("--precision", metavar="NAME", help=text, shell_complete=completion.PRECISIONS)


_NETWORK: tuple[Option[Any], ...] = (
    architecture_option("The network that a file's tensors belong to; a run or a saved model has its own."),
    click.option("--classes", type=click.IntRange(min=1), help="Classes or keypoints of --architecture."),
    click.option("--form", type=click.Choice(["release", "paper"]), help="Reading of its gated parts."),
    click.option(
        "--inplace-abn/--no-inplace-abn",
        default=None,
        help="Read batch norms' scales as |scale| + eps, as GSTO's authors trained; or as they are.",
    ),
)
