"""All that docs/speed.md tells, measured by one command: `python -m gsto_train.bench.suites cpu FOLDER`.

Each run is a `gsto-bench` of its own, whose results are `FOLDER/speed-NAME.json`; `--document FILE.md` writes
their tables between that file's markers, and draws growth into the folder `figures` beside it. Measure on a
machine that does nothing else.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gsto_train.absence import Absent
from gsto_train.bench.document import insert
from gsto_train.command_line import WRONG_INPUT, fail
from gsto_train.errors import InputError

_BENCH = "from gsto_train.commands.bench import main; main()"


def _only(*subjects: str) -> tuple[str, ...]:
    return tuple(part for subject in subjects for part in ("--only", subject))


_LIGHT, _WIDE, _BEFORE = "gsto-hrnet-w18-small-v2", "gsto-hrnet-w48", "hrnetv2-w18-small-v2"
_TORCH = ("torch-plain", "torch-fast", "torch-compiled")
_JAX = ("jax-plain", "jax-fast")
_ENGINES = ("onnxruntime-plain", "onnxruntime-optimized", "openvino-plain", "openvino-optimized")
_CARD = (
    "--device", "cuda", "--architecture", _WIDE, "--size", "512x1024", "--precision", "float32",
    "--precision", "tf32", "--precision", "bfloat16",
)  # fmt: skip

SUITES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {
        "inference-w18-small-v2": ("inference", "--rounds", "5", *_only(*_TORCH, *_JAX, *_ENGINES)),
        "inference-w48": ("inference", "--architecture", _WIDE, "--size", "512x512", "--rounds", "3",
                          *_only(*_TORCH, *_ENGINES)),
        "gsto-over-hrnet": ("inference", "--architecture", _BEFORE, "--architecture", _LIGHT, "--rounds", "5",
                            "--no-ceilings", *_only("torch-plain", "torch-compiled")),
        "step": ("step", "--rounds", "5", *_only("torch-plain", "torch-fast", *_JAX)),
        "data": ("data", "--rounds", "3"),
        "growth": ("growth", "--rounds", "3", *_only("torch-fast")),
    },
    "cuda": {
        "cuda-inference-w48": ("inference", *_CARD, *_only(*_TORCH, *_JAX)),
        "cuda-step-w48": ("step", *_CARD, "--batch", "4", *_only("torch-plain", "torch-fast", *_JAX)),
    },
}  # fmt: skip
"""Suite -> the name of each of its results -> what `gsto-bench` is told."""


def run(suite: str, folder: Path) -> list[Path]:
    """Measure a suite; what fails is told and left out. Returns the files of what was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, options in SUITES[suite].items():
        place = folder / f"speed-{name}.json"
        print(f"gsto-bench {' '.join(options)} --output {place}", flush=True)
        command = [sys.executable, "-c", _BENCH, *options, "--output", str(place)]
        if subprocess.run(command, check=False).returncode == 0:
            found.append(place)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 where a run failed, 2 for a folder or document that does not serve."""
    parser = argparse.ArgumentParser("python -m gsto_train.bench.suites", description=__doc__)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--document", type=Path, metavar="FILE.md")
    parser.add_argument("--tables-only", action="store_true", help="of what was measured before")
    given = parser.parse_args(arguments)
    try:
        return _measure(given)
    except Absent as reason:
        return fail("gsto_train.bench.suites", f"matplotlib is {reason}", WRONG_INPUT)
    except (InputError, OSError) as error:
        return fail("gsto_train.bench.suites", str(error), WRONG_INPUT)


def _measure(given: argparse.Namespace) -> int:
    wanted = [given.folder / f"speed-{name}.json" for name in SUITES[given.suite]]
    if given.tables_only:
        found = [place for place in wanted if place.exists()]
        if not found:
            raise InputError(f"{given.folder}: expected {wanted[0].name} or another of its suite, found none")
    else:
        found = run(given.suite, given.folder)
    if given.document is not None and found:
        insert(given.document, given.suite, [_read(place) for place in found])
    return int(len(found) < len(wanted) and not given.tables_only)


def _read(place: Path) -> tuple[str, Mapping[str, Any]]:
    return place.name, json.loads(place.read_text("utf-8"))


if __name__ == "__main__":
    sys.exit(main())
