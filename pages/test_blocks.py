"""Every block of every page is run in its turn, or says why not."""

from pathlib import Path

import pytest

from pages.markdown import PAGES, ROOT, blocks
from pages.running import Reader


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_is_so(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for block in blocks(page):
        reader.take(block)
