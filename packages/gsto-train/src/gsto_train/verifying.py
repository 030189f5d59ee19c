"""Whether a saved model is still what it was saved as: its digests, and its answer on a fixed picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_spec import golden
from gsto_spec.backend import Backend, backends
from gsto_spec.errors import GstoError
from gsto_spec.pretrained import GOLDEN_FILE, Inspected, inspect_directory
from gsto_train import convert, resolve
from gsto_train.errors import InputError, nearest_path
from gsto_train.run import runfolder

_PRECISIONS = tuple(golden.ROUNDING)
_SHOWN = 5
"""Problems that are told by name in a line."""


class VerificationError(Exception):
    """A saved model that is not, or does not answer, what is recorded; `result` is what --json prints."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def verify(source: Path, *, backend: str | None, device: str | None, precision: str | None) -> dict[str, Any]:
    """Compute a saved model's digests and its golden answer again, and return what was found.

    `source` is a saved model, a run that has ended, or an id of the hub. Raises `VerificationError` where
    something differs, `InputError` or gsto_spec's error where there is nothing to compare.
    """
    folder = _folder(source)
    saved = inspect_directory(folder)
    chosen = resolve.load_backend(_backend_name(folder, backend, saved.card))
    exact = precision or ("float64" if "float64" in chosen.precisions else "float32")
    if exact not in _PRECISIONS:
        raise InputError(f"--precision {exact}: a golden answer is held to in {' or '.join(_PRECISIONS)}")
    resolve.check_choices(chosen, exact, device or "auto")
    answers = _compare(folder, saved, chosen, device or "auto", exact)
    problems = [*saved.problems, *(_told(answer) for answer in answers if not answer.agrees)]
    result = {
        "model": str(source),
        "verified": not problems,
        "graph_digest": saved.graph.digest,
        "tensors": len(saved.weights),
        "backend": chosen.name,
        "precision": exact,
        "problems": problems,
        "outputs": {answer.output: _as_json(answer) for answer in answers},
    }
    if problems:
        raise VerificationError(f"{source}: not as it was saved: {_listed(problems)}", result)
    return result


def summary(result: Mapping[str, Any]) -> str:
    """Return in a line what was verified."""
    nearest = max((each["distance"] / each["bound"] for each in result["outputs"].values()), default=0.0)
    return (
        f"{result['model']}: verified: {result['tensors']:,} tensors and graph {result['graph_digest'][:12]} "
        f"are those recorded, and {result['backend']} in {result['precision']} gives the recorded answer "
        f"(off by {nearest:.2g} of what rounding may do)"
    )


def _folder(source: Path) -> Path:
    folder = convert.here(source)
    if runfolder.is_run(folder):
        folder = folder / runfolder.MODEL
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of a saved model{nearest_path(folder)}; check the path")
    return folder


def _backend_name(folder: Path, asked: str | None, card: Mapping[str, Any]) -> str:
    """Return the backend asked for, else the card's, else the only one; a card's own code is not run."""
    installed = backends()
    if asked is not None:
        return asked
    if card.get("backend") in installed:
        return str(card["backend"])
    if len(installed) == 1:
        return installed[0]
    raise InputError(f"{folder}: names no backend; give one with --backend, torch or jax")


def _compare(
    folder: Path, saved: Inspected, backend: Backend, device: str, precision: str
) -> list[golden.Compared]:
    predictor = backend.predictor(saved.graph, saved.weights, device=device, precision=precision)
    try:
        return golden.compare(saved.graph, saved.weights, saved.recorded, predictor.predict, precision)
    except GstoError as error:
        raise InputError(f"{folder / GOLDEN_FILE}: {error}") from None


def _as_json(answer: golden.Compared) -> dict[str, float | None]:
    found = {"distance": answer.distance, "bound": answer.bound, "definition": answer.definition}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _told(answer: golden.Compared) -> str:
    also = (
        "; the numpy definition on this machine is off as well, so weights or graph changed"
        if answer.definition > answer.bound
        else ""
    )
    return (
        f"output {answer.output} lies {answer.distance:.3g} from the recorded answer, rounding explains "
        f"{answer.bound:.3g}{also}"
    )


def _listed(problems: list[str]) -> str:
    more = f"; and {len(problems) - _SHOWN:,} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
