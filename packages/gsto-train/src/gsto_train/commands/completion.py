"""What a shell offers for an option's value: names, settings, files; click asks when Tab is pressed."""

from collections.abc import Callable, Iterable
from typing import get_args

import click
from click.shell_completion import CompletionItem

Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


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


def _settings() -> Iterable[str]:
    from gsto_train.schema import describe
    from gsto_train.settings import Settings

    return (f"{key}=" for key in describe(Settings))


def _precisions() -> Iterable[str]:
    from gsto_spec.precision import Precision

    return get_args(Precision)


BENCHMARKS = _names(_benchmarks, files=True)
ARCHITECTURES = _names(_architectures, files=True)
BACKENDS = _names(_backends)
SETTINGS = _names(_settings)
DEVICES = _names(lambda: ("auto", "cpu", "cuda"))
PRECISIONS = _names(_precisions)
FOLDERS, FILES = _places("dir"), _places("file")
