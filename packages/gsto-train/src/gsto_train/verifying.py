"""Whether a saved model is still what it was saved as: its digests, and its answer on a fixed picture."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsto_spec import golden
from gsto_spec.backend import Backend, backends
from gsto_spec.errors import GstoError
from gsto_spec.model_card import config
from gsto_spec.pretrained import CONFIG_FILE, GOLDEN_FILE, Inspected, inspect_directory
from gsto_spec.weights import CARD_FILE, GRAPH_FILE, read_card
from gsto_train import cards, convert, resolve
from gsto_train.cards import short_json
from gsto_train.errors import InputError, nearest_path
from gsto_train.run import runfolder
from gsto_train.wording import noun_of

_PRECISIONS = tuple(golden.ROUNDING)
_SHOWN = 5
"""Problems that are told by name."""


class VerificationError(Exception):
    """A saved model that is not, or does not answer, what is recorded.

    `result` is what --json prints, `lines` say what is wrong, one each.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        problems = result["problems"]
        more = [f"and {len(problems) - _SHOWN:,} more; --json has them all"][: len(problems) > _SHOWN]
        self.lines = [
            f"{result['model']}: not as it was saved: {each}" for each in (*problems[:_SHOWN], *more)
        ]
        super().__init__("; ".join(self.lines))
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
    problems = [
        *saved.problems,
        *_misfits(folder, saved),
        *_misconfigured(folder, saved),
        *(_told(answer) for answer in answers if not answer.agrees),
    ]
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
        raise VerificationError(result)
    return result


def summary(result: Mapping[str, Any]) -> str:
    """Return in a line what was verified."""
    nearest = max((each["distance"] / each["bound"] for each in result["outputs"].values()), default=0.0)
    tensors = f"{result['tensors']:,} {noun_of(result['tensors'], 'tensor')}"
    return (
        f"{result['model']}: verified: {tensors} and graph {result['graph_digest'][:12]} "
        f"are those recorded, and {result['backend']} in {result['precision']} gives the recorded answer "
        f"(off by {nearest:.2g} of what rounding may do)"
    )


def _folder(source: Path) -> Path:
    folder = runfolder.saved_model(convert.here(source))
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of a saved model{nearest_path(folder, 'folder')}; check the path"
        )
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


def _misfits(folder: Path, saved: Inspected) -> list[str]:
    """Return what the card says of classes that the network has not."""
    cards.check_output(folder, saved.graph)
    stated = {key: value for key, value in saved.card.items() if value}
    return [f"{CARD_FILE}: {each}" for each in cards.label_problems(saved.graph, stated)]


def _misconfigured(folder: Path, saved: Inspected) -> list[str]:
    """Return where config.json is not what graph and card make of it."""
    try:
        told = read_card(folder / CONFIG_FILE)
    except GstoError as error:
        return [str(error)]
    except OSError as error:
        return [f"{CONFIG_FILE}: {error.strerror}"]
    wanted = json.loads(json.dumps(config(saved.graph, saved.card)))
    return [
        f"{CONFIG_FILE}: {key}: expected {short_json(value)}, as {GRAPH_FILE} and {CARD_FILE} have it, "
        f"found {short_json(told.get(key))}"
        for key, value in wanted.items()
        if told.get(key) != value
    ]
