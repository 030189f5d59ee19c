"""A report as one HTML file that needs nothing else: no network, no scripts; any width, light or dark."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsto_train.look.charts import Line, confusion_chart, line_chart
from gsto_train.look.colours import css
from gsto_train.look.evidence import Evidence, Shot
from gsto_train.look.record import Record
from gsto_train.metrics.keypoints import COCO_NAMES
from gsto_train.report import duration

_SERIES = 6
_FINAL = "loss_stage4"
_NO_PACKAGES = ("python", "threads", "processes", "devices", "device", "cuda")
"""What backends tell among their versions that pip does not install."""
_POOLED = (
    "mean_iou",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_instance_iou",
    "mean_category_iou",
    *COCO_NAMES,
    "PCK",
)
_NAMES = {
    "mean_iou": "mean IoU",
    "mean_instance_iou": "mean instance IoU",
    "mean_category_iou": "mean category IoU",
}

Entry = tuple[Record, Evidence | str]
"""A run, and what was seen of its network, or why nothing was."""


def page(entries: Sequence[Entry]) -> str:
    """Return the report of one run, or of several side by side, as HTML text."""
    records = [record for record, _ in entries]
    names = _labels(records)
    sections = [
        ("scores", "Scores", _scores(records, names)),
        ("curves", "Curves", _curves(records, names)),
        ("samples", "Samples", _samples(entries, names)),
        ("confusion", "Confusion matrix", _confusions(entries, names)),
        ("gates", "Gates", _gates(entries, names)),
        ("reproduce", "How to reproduce", _reproduce(records, names)),
        ("settings", "Configuration", _settings(records, names)),
        ("environment", "Environment", _environments(records, names)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    title = names[0] if len(names) == 1 else f"{len(names)} runs compared"
    links = "".join(f'<a href="#{key}">{escape(text)}</a>' for key, text, _ in shown)
    bodies = "".join(f'<h2 id="{key}">{escape(text)}</h2>{body}' for key, text, body in shown)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_style()}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_head(records)}{_damage(records)}<nav>{links}</nav>{bodies}</body></html>\n"
    )


def _style() -> str:
    return (files(__package__) / "report.css").read_text(encoding="utf-8")


def _labels(records: Sequence[Record]) -> list[str]:
    """Return what the runs are called: their networks, with the folder's name where that is not enough."""
    if len(records) == 1:
        return [f"{records[0].title} on {records[0].config.get('benchmark')}"]
    titles = [record.title for record in records]
    if len(set(titles)) == len(titles):
        return titles
    folders = [record.name for record in records]
    again = len(set(zip(titles, folders, strict=True))) < len(titles)
    return [
        f"{title} ({record.path if again else folder})"
        for title, record, folder in zip(titles, records, folders, strict=True)
    ]


def _head(records: Sequence[Record]) -> str:
    if len(records) > 1:
        return ""
    record, result = records[0], records[0].result
    tiles = [(_name(key), _number(record.scores.get(key))) for key in _pooled([record])[:4]]
    if result:
        seconds = result.get("seconds")
        took = duration(seconds) if isinstance(seconds, int | float) else "-"
        tiles += [("steps", f"{result.get('steps', '-')}"), ("training", took)]
    told = "".join(f"<div>{escape(name)}<b>{escape(value)}</b></div>" for name, value in tiles)
    ended = "" if result else "<p><b>This run has not ended.</b></p>"
    protocol = f'<p class="quiet">{escape(str(result.get("protocol", "")))}</p>' if result else ""
    return f'{ended}{protocol}<div class="tiles">{told}</div>'


def _damage(records: Sequence[Record]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for record in records for line in record.damage)
    return lines and f"<p><b>Damaged files, whose contents are left out:</b></p><ul>{lines}</ul>"


def _scores(records: Sequence[Record], names: Sequence[str]) -> str:
    """Return the table of scores: by class or joint, then pooled; beside the baselines for one run."""
    columns: dict[str, Mapping[str, Any]] = dict(
        zip(names, (record.scores for record in records), strict=True)
    )
    baselines = records[0].result.get("baselines") if len(records) == 1 else None
    if isinstance(baselines, Mapping):
        columns = {"network": records[0].scores, **{key: _mapping(each) for key, each in baselines.items()}}
    pooled = _pooled(records)
    if not pooled:
        return ""
    heads = "".join(f'<th class="number">{escape(name)}</th>' for name in columns)
    parts = [f"<thead><tr><th></th>{heads}</tr></thead>"]
    for key in ("iou", "PCK_by_joint"):
        labels = dict.fromkeys(label for scores in columns.values() for label in _mapping(scores.get(key)))
        rows = [_row(label, [_mapping(s.get(key)).get(label) for s in columns.values()]) for label in labels]
        parts.append(f"<tbody>{''.join(rows)}</tbody>")
    rows = [_row(_name(key), [scores.get(key) for scores in columns.values()]) for key in pooled]
    parts.append(f'<tbody class="pooled">{"".join(rows)}</tbody>')
    kind = (
        "IoU of every class" if any(record.scores.get("iou") for record in records) else "PCK of every joint"
    )
    protocols = dict.fromkeys(str(record.result.get("protocol")) for record in records if record.result)
    warning = (
        "<p><b>These runs were scored by different procedures: " + escape("; ".join(protocols)) + "</b></p>"
        if len(protocols) > 1
        else ""
    )
    table = f'<div class="wide"><table>{"".join(parts)}</table></div>'
    return f'{warning}<p class="quiet">{kind}, and pooled scores.</p>{table}'


def _row(label: str, values: Sequence[Any]) -> str:
    cells = "".join(
        f'<td class="number">{_number(value)}{_bar(value, column)}</td>'
        for column, value in enumerate(values)
    )
    return f"<tr><th>{escape(label)}</th>{cells}</tr>"


def _bar(value: object, column: int) -> str:
    if not isinstance(value, int | float):
        return ""
    share = min(max(float(value), 0.0), 1.0)
    colour = f"var(--s{column % _SERIES})"
    return f'<span class="bar"><i style="width:{100 * share:.1f}%;background:{colour}"></i></span>'


def _curves(records: Sequence[Record], names: Sequence[str]) -> str:
    charts = [_loss_chart(records, names)]
    for key in [key for key in _pooled(records) if key in ("mean_iou", "pixel_accuracy", "AP", "PCK")]:
        lines = [Line(n, _points(r.evaluations, key)) for n, r in zip(names, records, strict=True)]
        if any(len(line.drawn) > 1 for line in lines):
            charts.append(line_chart(_name(key), lines))
    rates = [Line(n, _points(r.metrics, "learning_rate")) for n, r in zip(names, records, strict=True)]
    charts.append(line_chart("learning rate", rates))
    drawn = "".join(charts)
    return drawn and f'<div class="charts">{drawn}</div>'


def _loss_chart(records: Sequence[Record], names: Sequence[str]) -> str:
    """Return every output's loss of one run; of several the final output's, since sums do not compare."""
    if len(records) == 1:
        losses = dict.fromkeys(key for line in records[0].metrics for key in line if key.startswith("loss"))
        keys = list(losses) if len(losses) > 2 else ["loss"]  # One output's loss is the sum.
        own = [Line(_loss_name(key), _points(records[0].metrics, key)) for key in keys]
        return line_chart("training loss", own)
    final = all(record.metrics and _FINAL in record.metrics[-1] for record in records)
    key, title = (_FINAL, "training loss of the final output") if final else ("loss", "training loss")
    shared = [Line(n, _points(r.metrics, key)) for n, r in zip(names, records, strict=True)]
    return line_chart(title, shared)


def _samples(entries: Sequence[Entry], names: Sequence[str]) -> str:
    seen = [
        (name, each) for name, (_, each) in zip(names, entries, strict=True) if isinstance(each, Evidence)
    ]
    missing = "".join(
        f'<p class="quiet">{escape(name)}: not drawn: {escape(each)}</p>'
        for name, (_, each) in zip(names, entries, strict=True)
        if isinstance(each, str)
    )
    missing += "".join(
        f'<p class="quiet">left out: {escape(note)}</p>' for _, each in seen for note in each.notes
    )
    titles = dict.fromkeys(shot.title for _, each in seen for shot in each.shots)
    rows = "".join(_sample_row(title, seen) for title in titles)
    first = seen[0][1].network if seen else None
    legend = "" if first is None or first.poses else _class_legend(first.labels, first.palette)
    sides = '<p class="quiet">Left limbs are blue, right ones vermilion.</p>' if first and first.poses else ""
    return f"{missing}{legend}{sides}{rows}"


def _sample_row(title: str, seen: Sequence[tuple[str, Evidence]]) -> str:
    shots: list[tuple[str, Shot]] = [
        (name, shot) for name, each in seen for shot in each.shots if shot.title == title
    ]
    tiles = [("picture", shots[0][1].picture)]
    if shots[0][1].truth is not None:
        tiles.append(("truth", shots[0][1].truth))
    for name, shot in shots:
        caption = "prediction" if len(seen) == 1 else name
        tiles.append((f"{caption}, {shot.score}" if shot.score else caption, shot.found))
    cells = "".join(starmap(_image, tiles))
    columns = f"grid-template-columns: repeat({len(tiles)}, minmax(0, 1fr))"
    return f'<h3>{escape(title)}</h3><div class="shots" style="{columns}">{cells}</div>'


def _confusions(entries: Sequence[Entry], names: Sequence[str]) -> str:
    parts = []
    for name, (record, each) in zip(names, entries, strict=True):
        counted = _counted(record, each)
        if counted is None:
            continue
        confusion, labels, over = counted
        heading = f"<h3>{escape(name)}</h3>" if len(entries) > 1 else ""
        parts.append(
            f'{heading}<p class="quiet">A row is a true class, a column what its pixels were taken for, in '
            f"percent of the row; over {over} validation pictures.</p>"
            f'<div class="wide">{confusion_chart(confusion, labels)}</div>'
        )
    return "".join(parts)


def _counted(record: Record, seen: Evidence | str) -> tuple[NDArray[np.int64], Sequence[str], str] | None:
    """Return a confusion matrix, its classes and what it is over: the run's own, else what was predicted."""
    if record.confusion is not None:
        total = _mapping(record.result.get("pictures")).get("validation")
        return record.confusion, record.classes, "all" if total is None else f"all {total}"
    if isinstance(seen, str) or seen.confusion is None:
        return None
    part = "all" if seen.pictures == seen.total else f"{seen.pictures} of the"
    return seen.confusion, seen.network.labels, f"{part} {seen.total}"


def _gates(entries: Sequence[Entry], names: Sequence[str]) -> str:
    parts = []
    for name, (_, each) in zip(names, entries, strict=True):
        if isinstance(each, str) or not each.gates:
            continue
        if len(entries) > 1:
            parts.append(f"<h3>{escape(name)}</h3>")
        for part in dict.fromkeys(gate.part for gate in each.gates):
            tiles = "".join(
                _image(f"{gate.name}, mean {gate.mean:.2f}", gate.image)
                for gate in each.gates
                if gate.part == part
            )
            parts.append(f'<h3>{escape(part)}</h3><div class="gates">{tiles}</div>')
    told = (
        '<p class="quiet">What each gate lets through of the first sample, from the stride of its branch to '
        "that of its target; dark is closed, bright is open. A gate of the released form is never below 0.5, "
        "which is dark then.</p>"
    )
    return told + "".join(parts) if parts else ""


def _reproduce(records: Sequence[Record], names: Sequence[str]) -> str:
    return "".join(_reproduction(r, n, len(records) > 1) for r, n in zip(records, names, strict=True))


def _reproduction(record: Record, name: str, several: bool) -> str:
    environment = record.environment
    backend = environment.get("backend") if isinstance(environment.get("backend"), Mapping) else {}
    versions = {**_mapping(environment.get("packages")), **_mapping(_mapping(backend).get("versions"))}
    packages = {name: version for name, version in versions.items() if name not in _NO_PACKAGES}
    install = " ".join(f"{name}=={version}" for name, version in packages.items())
    facts = {
        "graph digest": record.result.get("graph_digest"),
        "seeds": ", ".join(
            f"{key} {_text(seed)}" for key, seed in _mapping(record.result.get("seeds")).items()
        ),
        "recipe's source": _mapping(record.config.get("record")).get("source"),
    }
    rows = "".join(
        f'<tr><th>{escape(key)}</th><td class="text">{escape(_text(value))}</td></tr>'
        for key, value in facts.items()
        if value
    )
    heading = f"<h3>{escape(name)}</h3>" if several else ""
    return (
        f'{heading}<pre>{escape(record.command)}</pre><p class="quiet">With these versions:</p>'
        f'<pre>{escape(install)}</pre><div class="wide"><table>{rows}</table></div>'
    )


def _settings(records: Sequence[Record], names: Sequence[str]) -> str:
    tables = [{key: _text(value) for key, value in record.settings.items()} for record in records]
    return _table(tables, names, "settings")


def _environments(records: Sequence[Record], names: Sequence[str]) -> str:
    tables = [dict(_flat(record.environment)) for record in records]
    return _table(tables, names, "entries")


def _table(tables: Sequence[Mapping[str, str]], names: Sequence[str], what: str) -> str:
    """Return values by key, a column a run; where there are several, those that differ before the rest."""
    keys = list(dict.fromkeys(key for table in tables for key in table))
    differing = [key for key in keys if len({table.get(key) for table in tables}) > 1]
    same = [key for key in keys if key not in differing]
    if len(tables) == 1:
        return _values(same, tables, ("value",)) if same else ""
    first = _values(differing, tables, names) if differing else f"<p>All {what} are the same.</p>"
    rest = _values(same, tables[:1], ("value",))
    return f"{first}<details><summary>{len(same)} {what} that are the same</summary>{rest}</details>"


def _values(keys: Sequence[str], tables: Sequence[Mapping[str, str]], heads: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    rows = "".join(
        f"<tr><th>{escape(key)}</th>"
        + "".join(f'<td class="text">{escape(table.get(key, "-"))}</td>' for table in tables)
        + "</tr>"
        for key in keys
    )
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _image(caption: str, data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    encoded = base64.b64encode(data).decode()
    return (
        f'<figure><img src="data:image/{kind};base64,{encoded}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _class_legend(labels: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> str:
    entries = "".join(
        f'<span><i class="swatch" style="background:{css(colour)}"></i>{escape(name)}</span>'
        for name, colour in zip(labels, palette, strict=True)
    )
    ignored = '<span><i class="swatch" style="background:#000"></i>not labelled</span>'
    return f'<div class="legend">{entries}{ignored}</div>'


def _pooled(records: Sequence[Record]) -> list[str]:
    return [key for key in _POOLED if any(record.scores.get(key) is not None for record in records)]


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (float(line["step"]), float(line[key])) for line in lines if isinstance(line.get(key), int | float)
    ]


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _text(value)


def _text(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"


def _name(key: str) -> str:
    return _NAMES.get(key, key.replace("_", " "))


def _loss_name(key: str) -> str:
    return "sum, weighted" if key == "loss" else key.removeprefix("loss_")
