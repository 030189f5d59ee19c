"""The page that a saved model is shared with: README.md, whose front matter the hub reads, and config.json.

Everything in it comes from the graph and from `card.json`; what the card does not say is said to be missing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gsto_spec.graph import Graph

Card = Mapping[str, Any]

LIBRARY = "gsto"
NOT_STATED = "Not stated."
_KEYPOINTS, _SEGMENTATION = "keypoint-detection", "image-segmentation"
_LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "agpl-3.0",
)  # fmt: skip
"""Identifiers of licences that the hub knows; any other licence is `other` there."""


def config(graph: Graph, card: Card) -> dict[str, Any]:
    """What `config.json` holds: by this file the hub counts downloads, and tools read what classes mean."""
    labels = enumerate(_labels(card))
    return {
        "library_name": LIBRARY,
        "architectures": [_architecture(graph, card)],
        "graph": "graph.json",
        "graph_digest": graph.digest,
        "id2label": {str(index): label for index, label in labels},
        "preprocessing": card.get("preprocessing"),
    }


def model_card(graph: Graph, card: Card) -> str:
    """The text of `README.md`: front matter, and for people data, protocol, score, licence and digests."""
    matter = "".join(f"{key}: {_yaml(value)}\n" for key, value in _front_matter(graph, card).items())
    sections = {
        "Use": _use(card),
        "Data": _data(card),
        "Protocol": _line(card.get("protocol")) or NOT_STATED,
        "Score": _score(card),
        "Classes": _classes(card),
        "Settings": _settings(card),
        "Licence": _line(card.get("licence")) or NOT_STATED,
        "Digests": _digests(graph, card),
    }
    body = "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())
    return f"---\n{matter}---\n\n# {_line(_title(graph, card))}\n\n{_summary(graph)}\n{body}"


def _front_matter(graph: Graph, card: Card) -> dict[str, Any]:
    licence, benchmark = card.get("licence"), card.get("benchmark")
    task = _task(graph, card)
    described = {
        "library_name": LIBRARY,
        "pipeline_tag": task,
        "license": _licence(licence),
        "tags": [LIBRARY, "hrnet", "pose-estimation" if task == _KEYPOINTS else "semantic-segmentation"],
        "datasets": card.get("datasets", [benchmark] if isinstance(benchmark, str) else None),
        "metrics": [name for name, _ in _numbers(card)],
        "model-index": _index(graph, card, task),
    }
    return {key: value for key, value in described.items() if value}


def _licence(licence: object) -> str:
    known = licence.lower() if isinstance(licence, str) else None
    return "unknown" if known is None else known if known in _LICENCES else "other"


def _index(graph: Graph, card: Card, task: str) -> list[dict[str, Any]]:
    """The hub's table of results; it needs a data set and a number."""
    benchmark, scores = card.get("benchmark"), dict(_numbers(card))
    if not isinstance(benchmark, str) or not scores:
        return []
    return [{
        "name": _title(graph, card),
        "results": [{
            "task": {"type": task},
            "dataset": {"type": benchmark, "name": benchmark},
            "metrics": [{"type": name, "name": name, "value": value} for name, value in scores.items()],
        }],
    }]  # fmt: skip


def _task(graph: Graph, card: Card) -> str:
    scores = card.get("metrics")
    joints = isinstance(scores, Mapping) and ("PCK" in scores or "AP" in scores)
    return _KEYPOINTS if joints or _architecture(graph, card).startswith("pose-") else _SEGMENTATION


def _architecture(graph: Graph, card: Card) -> str:
    told = card.get("architecture") or graph.notes.get("architecture")
    return told if isinstance(told, str) else "a network of one's own"


def _title(graph: Graph, card: Card) -> str:
    benchmark = card.get("benchmark")
    on = f" on {benchmark}" if isinstance(benchmark, str) else ""
    return f"{_architecture(graph, card)}{on}"


def _summary(graph: Graph) -> str:
    learnt = sum(map(math.prod, graph.trainable.values()))
    outputs = ", ".join(f"`{_line(name)}`" for name in graph.outputs)
    return (
        f"{learnt:,} parameters; outputs {outputs}, the first the prediction, the others for training. The "
        "network is in `graph.json`, its weights in `model.safetensors`, all that is known of it in "
        "`card.json`. No code comes with it."
    )


def _use(card: Card) -> str:
    told = card.get("preprocessing")
    steps = f"Pictures are prepared so: {_line(json.dumps(told))}.\n\n" if told else ""
    return (
        f"{steps}```python\nimport gsto_torch  # or gsto_jax, which takes N x H x W x 3\n\n"
        'model = gsto_torch.from_pretrained("DIRECTORY or owner/name")\n```'
    )


def _data(card: Card) -> str:
    told = card.get("data", card.get("benchmark"))
    if told is None:
        return NOT_STATED
    return _line(told) if isinstance(told, str) else _fenced("json", json.dumps(told, indent=1))


def _numbers(card: Card) -> Iterator[tuple[str, float]]:
    """The scores that are one number each."""
    scores = card.get("metrics")
    for name, value in scores.items() if isinstance(scores, Mapping) else ():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield str(name), float(value)


def _score(card: Card) -> str:
    rows = [(name, f"{value:.4f}") for name, value in _numbers(card)]
    by_class = card["metrics"].get("iou") if isinstance(card.get("metrics"), Mapping) else None
    if isinstance(by_class, Mapping):
        shown = {name: f"{v:.4f}" if isinstance(v, int | float) else "-" for name, v in by_class.items()}
        rows += [(f"IoU of {name}", value) for name, value in shown.items()]
    return _table(("", "score"), rows) if rows else NOT_STATED


def _labels(card: Card) -> list[str]:
    names = card.get("classes")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _classes(card: Card) -> str:
    names, palette = _labels(card), card.get("palette")
    if not names:
        return NOT_STATED
    if not isinstance(palette, list | tuple) or len(palette) != len(names):
        return _table(("index", "name"), [(str(index), name) for index, name in enumerate(names)])
    rows = [
        (str(index), name, json.dumps(colour))
        for index, (name, colour) in enumerate(zip(names, palette, strict=True))
    ]
    return _table(("index", "name", "RGB"), rows)


def _settings(card: Card) -> str:
    lines = [f"{key} = {value}" for key, value in _flat("", card.get("settings"))]
    return _fenced("text", "\n".join(lines)) if lines else NOT_STATED


def _flat(prefix: str, settings: object) -> Iterator[tuple[str, str]]:
    """Dotted keys and JSON values, as `--set KEY=VALUE` takes them."""
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        elif value is not None:
            yield f"{prefix}{key}", json.dumps(value)


def _digests(graph: Graph, card: Card) -> str:
    rows = [("graph", graph.digest), ("model.safetensors, SHA-256", str(card.get("weights_sha256")))]
    return (
        f"{_table(('', 'digest'), rows)}\n\n`golden.json` holds a digest of every tensor and what the "
        "network answers on a fixed picture; `gsto-eval --verify DIRECTORY --backend torch` compares both."
    )


def _fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.replace('`', chr(39))}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_line, cells))} |" for cells in lines)


def _line(text: object) -> str:
    """Text in one line that is no markup, neither of tables nor of HTML."""
    if not isinstance(text, str):
        return ""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain.replace("|", r"\|").replace("<", "&lt;").strip()


def _yaml(value: object) -> str:
    """A value as YAML's flow style, of which JSON is a part once letters are ones that YAML may hold."""
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)}: {_yaml(entry)}' for key, entry in value.items())}}}"
    plain = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return json.dumps(plain, ensure_ascii=False)
