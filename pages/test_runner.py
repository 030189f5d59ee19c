"""The runner itself: a page that says what is not so fails."""

import re
from pathlib import Path

import pytest

from pages import commands, markdown
from pages.markdown import PageError, blocks, links
from pages.running import Reader


@pytest.fixture(autouse=True)
def a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "ROOT", tmp_path)


def read(folder: Path, text: str) -> Reader:
    """Run a page of this text, in a folder of its own."""
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    (folder / "reader").mkdir()
    reader = Reader(folder / "reader")
    for block in blocks(page):
        reader.take(block)
    return reader


GOOD = """
# A page

<!-- before: echo 3 > three.txt -->
<!-- file: mine.py -->
```python
number = 2
```
```python
import mine
from pathlib import Path
print(mine.number + int(Path("three.txt").read_text()), 0.1234)
```
```text
5 0.1...
```

<!-- run with: cat -n -->
<!-- ends with: 1 -->
```sh
cat three.txt > numbered.txt
false
```
```python
assert Path("numbered.txt").read_text().split() == ["1", "3"]
```
"""


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path) -> None:
    reader = read(tmp_path, GOOD)
    assert reader.names["mine"].number == 2
    assert Path.cwd() != reader.folder


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("```python\nassert 1 == 2\n```\n", r"page\.md:1: AssertionError"),
        ("```python\nprint(1)\n```\n```text\n2\n```\n", r"page\.md:1: printed\n1\n"),
        ("```sh\nfalse\ntrue\n```\n", r"page\.md:1: ended with 1"),
        ("<!-- ends with: 1 -->\n```sh\ntrue\n```\n", r"page\.md:2: ended with 1"),
        ("```sh\nfalse | cat\n```\n", r"page\.md:1: ended with 1"),
        ("<!-- not run: a reason -->\n```python\n1 +\n```\n", r"page\.md:2: SyntaxError"),
        ("<!-- not run: a reason -->\n```sh\ngsto-train --bakend torch\n```\n", r"--bakend"),
        ("```toml\na = \n```\n", r"page\.md:1: TOMLDecodeError"),
        ("```bash\ntrue\n```\n", r"page\.md:1: expected a block of sh, python, .* found 'bash'"),
        ("```\ntrue\n```\n", r"page\.md:1: expected a block of sh"),
        ("Words.\n\n    gsto-spec list\n", r"page\.md:3: commands in an indented block"),
        ("<!-- nit run: a reason -->\n```sh\ntrue\n```\n", r"page\.md:1: expected <!-- not run: WHY -->"),
        ("<!-- not run: -->\n```sh\ntrue\n```\n", r"page\.md:1: expected <!-- not run: WHY -->"),
    ],
)
def test_what_is_not_so_fails_at_its_line(tmp_path: Path, block: str, told: str) -> None:
    with pytest.raises(PageError, match=told):
        read(tmp_path, block)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("gsto-trian --backend torch", "gsto-trian"),
        ("gsto-spec lost", "lost"),
        ("gsto-bench stpe", "stpe"),
        ("gsto-spec show gsto-hrnet-w48 --from paper", "--from"),
        ("gsto-train --backend torch --benchmark cityscape", "cityscapes"),
        ("OMP_NUM_THREADS=1 gsto-train --backend torch --set train.stesp=2", r"train\.steps"),
        ("torchrun --nproc-per-node 2 -m gsto_train --backend torch --outptu run", "--outptu"),
        ("torchrun --nproc-per-nod 2 --no-pyton gsto-train", "2"),
        ("srun gsto-train --bakend jax", "--bakend"),
        ("python -m conformence --backend jax", "conformence"),
        (".venv/bin/nox -s conformanse", "conformanse"),
        ("no-such-program", "no-such-program"),
        ("gsto-spec list | gsto-spek show", "gsto-spek"),
        ("name=a$(gsto-spek list)b", "gsto-spek"),
    ],
)
def test_a_command_that_would_be_refused_is_told(command: str, told: str) -> None:
    with pytest.raises((Exception, SystemExit), match=told):
        commands.check(command)


def test_links_and_anchors_are_those_of_forges(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n## Twice\n## Twice\n[x](a.md#b) ![y](z.png) <https://a.org> [m](#twice-1)\n")
    assert markdown.anchors(page) == {"a-b-c", "twice", "twice-1"}
    assert [target for _, target in links(page)] == ["a.md#b", "z.png", "#twice-1"]


def test_a_block_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.running.LONGEST", 0.5)
    with pytest.raises(PageError, match=re.escape("still running after 0.5 s")):
        read(tmp_path, "```sh\nsleep 60 &\nwait\n```\n")
