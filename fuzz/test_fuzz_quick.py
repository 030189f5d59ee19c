"""A small profile of the fuzzing, which every run of continuous integration makes."""

import json
import os
import subprocess
import sys

import pytest

from fuzz.readers import NAMES

CASES = {"declarations": 1.0, "tensors": 1.0, "pictures": 1.0, "datasets": 1.0, "runs": 0.5, "commands": 0.75}
"""For each unit of a reader's weight: some three hundred in all."""


@pytest.mark.parametrize("module", NAMES)
def test_a_few_hostile_cases_are_refused_in_a_line(module: str) -> None:
    command = [sys.executable, "-m", "fuzz.worker", module, str(CASES[module]), "0"]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "CI": "true"}
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    tallies = [json.loads(line) for line in ended.stdout.splitlines()]
    assert tallies and all(tally["cases"] for tally in tallies)
    assert [problem for tally in tallies for problem in tally["problems"]] == []


def test_what_none_may_do_is_noticed(tmp_path: "os.PathLike[str]") -> None:
    script = f"""
import pathlib, sys
from hypothesis import strategies as st
from fuzz import reader, watch, worker
watch.install()
kinds = {{
    "write": lambda: open("../escaped", "w").close(), "link": lambda: pathlib.Path("../link").symlink_to("a"),
    "code": lambda: __import__("runpy").run_path("evil.py"), "trace": lambda: {{}}["absent"],
    "program": lambda: __import__("subprocess").run(["true"]), "memory": lambda: bytearray(2**29),
}}
def read(kind):
    kinds[kind]()
    return reader.Answer(True, "\\x1b[31m" if kind == "escape" else "")
lines = {{"silent": "two\\nlines", "exhausted": "Unable to allocate 3 GiB", "named": "unknown: 'allocate'"}}
kinds["escape"] = lambda: None
for kind in sorted({{**kinds, **lines}}):
    answer = (lambda case: reader.Answer(False, lines[case])) if kind in lines else read
    found = worker.run(reader.Reader(kind, 1, st.just(kind), answer), 1, 0, pathlib.Path({str(tmp_path)!r}))
    print(kind, len(found.problems))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    wrong = ("code", "escape", "exhausted", "link", "memory", "program", "silent", "trace", "write")
    told = {**dict.fromkeys(wrong, 1), "named": 0}
    assert ended.stdout == "".join(f"{kind} {told[kind]}\n" for kind in sorted(told)), ended.stderr
