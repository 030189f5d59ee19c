"""The two forms as data: a source for every field, and the page that shows them."""

from dataclasses import fields
from pathlib import Path

import pytest

from gsto_spec.forms import FORMS, PAPER, RELEASE, Form, Transfer, describe

PAGE = Path(__file__).parents[3] / "docs" / "forms.md"


def fields_in_use(form: Form) -> set[str]:
    names = {item.name for item in fields(Form)} - {"name", "sources"}
    if form.transfer is not None:
        names |= {f"transfer.{item.name}" for item in fields(Transfer)}
    return names


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_field_has_a_source_and_every_source_a_field(form: Form) -> None:
    assert set(form.sources) == fields_in_use(form)
    assert all(form.sources.values())


def test_forms_are_called_by_their_names() -> None:
    assert {name: form.name for name, form in FORMS.items()} == {"release": "release", "paper": "paper"}


def test_the_forms_differ_in_every_field() -> None:
    differing = {
        item.name for item in fields(Form) if getattr(PAPER, item.name) != getattr(RELEASE, item.name)
    }
    assert differing == {item.name for item in fields(Form)}


def test_what_the_paper_leaves_open_is_marked_as_chosen() -> None:
    assert {name for name, source in PAPER.sources.items() if "chosen" in source} == {
        "transfer.projection_bias", "transfer.projection_norm", "transfer.fusion_relu",
        "transfer.transition_relu", "transfer.down", "transfer.united_branch", "transfer.new_branch_stride",
    }  # fmt: skip
    assert not any("chosen" in source for source in RELEASE.sources.values())


def test_the_table_has_a_row_for_every_field() -> None:
    rows = [line.split("|")[1].strip() for line in describe().splitlines()]
    assert set(rows[2:]) == {f"`{name}`" for name in fields_in_use(PAPER)}
    for form in FORMS.values():
        assert all(source in describe() for source in form.sources.values())


def test_the_page_shows_the_forms_as_they_are() -> None:
    command = "python -c 'import gsto_spec.forms; print(gsto_spec.forms.describe(), end=\"\")'"
    assert describe() in PAGE.read_text(encoding="utf-8"), f"docs/forms.md is stale; its table is: {command}"
