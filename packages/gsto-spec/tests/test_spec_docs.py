"""The pages of docs/: each op has its section, labels agree everywhere, and examples run."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gsto_spec.ops import OPS

CHECKOUT = Path(__file__).parents[3]
DOCS = CHECKOUT / "docs"
OPS_PAGE = (DOCS / "ops.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABEL = r"[a-z][a-z0-9_]*?_c\d+"


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def sources(package: str) -> Iterator[str]:
    for path in sorted((CHECKOUT / "packages" / package / "src").rglob("*.py")):
        yield path.read_text(encoding="utf-8")


def labels_in_comments(package: str) -> set[str]:
    comments = [line.partition("  # ")[2] for text in sources(package) for line in text.splitlines()]
    return {label for comment in comments for label in re.findall(rf"\b{LABEL}\b", comment)}


def labels_in_strings(package: str) -> set[str]:
    nodes = (node for text in sources(package) for node in ast.walk(ast.parse(text)))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and re.fullmatch(LABEL, text)}


def labels_in_test_names(package: str) -> set[str]:
    tests = (
        path.read_text(encoding="utf-8") for path in (CHECKOUT / "packages" / package / "tests").glob("*.py")
    )
    return {
        label for text in tests for label in re.findall(rf"^def test_({LABEL})_\w+\(", text, re.MULTILINE)
    }


def documented_labels(package: str) -> list[str]:
    """Those of a backend's own section for a backend, and all the others for gsto-spec."""
    labels = re.findall(rf"^- ({LABEL}): ", OPS_PAGE, re.MULTILINE)
    backends = ("torch", "jax")
    if package == "gsto-spec":
        return [label for label in labels if not label.startswith(backends)]
    return [label for label in labels if label.startswith(package.removeprefix("gsto-"))]


@pytest.mark.parametrize("package", ["gsto-spec", "gsto-torch", "gsto-jax"])
def test_every_label_is_enforced_documented_and_tested(package: str) -> None:
    documented = documented_labels(package)
    assert documented
    assert len(documented) == len(set(documented))
    # A backend may enforce a graph's constraint again, on its own inputs.
    shared = set(documented_labels("gsto-spec")) if package != "gsto-spec" else set()
    assert labels_in_comments(package) - shared == set(documented)
    assert labels_in_test_names(package) == set(documented)
    assert labels_in_strings(package) <= set(re.findall(rf"^- ({LABEL}): ", OPS_PAGE, re.MULTILINE))


def test_labels_are_numbered_from_one_under_the_op_they_are_called_after() -> None:
    for name, text in sections(OPS_PAGE).items():
        labels = re.findall(rf"^- ({LABEL}): ", text, re.MULTILINE)
        topic = {"Graphs": "graph", "Training form": "training"}.get(name, name.lower())
        assert labels == [f"{topic}_c{k}" for k in range(1, len(labels) + 1)]
        assert labels


def test_every_op_has_a_section_in_the_order_of_the_closed_set() -> None:
    names = list(sections(OPS_PAGE))
    assert names[: len(OPS)] == list(OPS)
    contents = re.findall(r"\[[\w ]+\]\(#([\w-]+)\)", OPS_PAGE)
    assert contents == [name.lower().replace(" ", "-") for name in names]


@pytest.mark.parametrize("kind", OPS)
def test_a_section_says_shapes_fields_cost_and_an_example(kind: str) -> None:
    text = sections(OPS_PAGE)[kind]
    assert BLOCK.search(text)
    assert "- Multiply-adds: " in text
    assert re.search(r"Result: |result and fields as of", text)
    described = text if "Fields:" in text else sections(OPS_PAGE)["avg_pool"]
    for field in fields(OPS[kind]):
        assert f"`{field.name}`" in described
        marked = re.search(rf"`{field.name}` = [^;]*?\(\*training\*\)", described)
        assert bool(marked) == bool(field.metadata.get("training_only")), field.name


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_the_examples_of_the_op_page_run() -> None:
    setup, *examples = blocks(DOCS / "ops.md")
    assert len(examples) == len(OPS) + 3
    for example in examples:
        assert "assert" in example
        run(setup + example)


def test_the_examples_of_the_forms_page_run() -> None:
    for example in blocks(DOCS / "forms.md"):
        run(example)


def run(code: str) -> None:
    space: dict[str, Any] = {}
    exec(compile(code, "docs", "exec"), space)
