"""README.md: its counts are what the graph counts, its variant builds."""

import re
from pathlib import Path
from typing import Any

import pytest

from gsto_spec import Graph, build, cost, variant

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
COUNTS = re.compile(r"^\| `([\w-]+)` \| (\d+)x(\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", re.MULTILINE)
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("row", COUNTS.findall(README), ids=lambda row: row[0])
def test_a_row_of_counts_is_what_the_graph_counts(row: tuple[str, ...]) -> None:
    name, *numbers = row
    height, width, convolutions, parameters, macs = (int(number.replace(",", "")) for number in numbers)
    counted = cost(build(name), (1, 3, height, width))
    assert (counted.conv_parameters, counted.parameters, counted.macs) == (convolutions, parameters, macs)


def test_there_are_rows_of_counts() -> None:
    assert len(COUNTS.findall(README)) == 6


def test_the_variant_is_defined_in_fifteen_lines_and_has_its_gate() -> None:
    (block,) = (block for block in BLOCKS if "dataclasses.replace" in block)
    assert len(block.splitlines()) <= 15
    names: dict[str, Any] = {}
    exec(block, names)
    graph: Graph = build(names["network"])
    gates = {name for name in graph.parameters if "att_layers" in name and name.endswith(".3.weight")}
    plain = build(variant("gsto-hrnet-w18-small-v2"))
    assert len(gates) == len(
        {name for name in plain.parameters if re.search(r"att_layers.*\.0\.weight", name)}
    )
    assert graph.training_form_violation() is None
