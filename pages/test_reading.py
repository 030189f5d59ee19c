"""What can be said of the pages without running them: links, commands, the public interface."""

from pathlib import Path

import pytest

from pages import api, commands
from pages.markdown import PAGES, ROOT, anchors, blocks, links

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for line, target in links(page):
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        if not leads_to.exists() or (anchor and anchor not in anchors(leads_to)):
            dead.append(f"{page.relative_to(ROOT)}:{line}: {target}")
    assert dead == []


@each_page
def test_every_command_has_its_options(page: Path) -> None:
    for block in blocks(page):
        if block.language == "sh":
            try:
                commands.check(block.code)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{block.place}: {error}") from error


def test_the_page_of_the_public_interface_is_not_stale() -> None:
    stale = "docs/api.md is stale: python -m pages.api > docs/api.md"
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == api.page(), stale


def test_every_public_name_is_described() -> None:
    described = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for module, names in api.MODULES.items():
        for name in names or [""]:
            assert f":: {module}.{name}".rstrip(".") + "\n" in described
