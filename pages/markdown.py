"""What a page holds: its blocks of code with the marks that stand before them, its links and its anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for names in ("*.md", "docs/*.md", "packages/*/README.md") for path in ROOT.glob(names))

RUN, READ = ("sh", "python"), ("text", "toml", "json")
"""Languages of blocks that are run, and of those that are only read."""
DIRECTIVE = re.compile(r"\{[\w:-]+\}")
"""A block that the site's builder reads: ```{toctree}."""

_MARK = re.compile(r"<!--\s*(not run|run with|before|file|ends with):\s*(\S.*?)\s*-->\s*", re.DOTALL)
_COMMANDS = re.compile(r"(\S*/)?(gsto-\w+|nox|pip|python\S*|torchrun|srun|curl|git)\s")


class PageError(Exception):
    """A page says something that is not so; the message begins with page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `marks`: the comments before it, by their first words; `output`: the text after it.

    - `not run: WHY`: its commands are only parsed.
    - `before: COMMANDS`: what makes that which must be there first; it can run `python -m pages.samples`.
    - `run with: COMMAND OPTIONS`: what every such command of the block has besides, so as to take seconds.
    - `file: NAME`: the block is a file of that name.
    - `ends with: STATUS`: the exit status of one of its commands, which is not 0.
    """

    page: Path
    line: int
    language: str
    code: str
    marks: dict[str, list[str]]
    output: str | None = None

    @property
    def place(self) -> str:
        """Page and line, as editors take them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order; raises `PageError` for what could not be run or read."""
    found: list[Block] = []
    tokens = _tokens(page)
    for index, token in enumerate(tokens):
        if token.type == "code_block":
            _refuse_commands(page, token)
        if token.type != "fence" or DIRECTIVE.match(token.info):
            continue
        if token.info == "text" and index and tokens[index - 1].type == "fence" and found[-1].language in RUN:
            found[-1] = replace(found[-1], output=token.content)
            continue
        found.append(Block(page, _line(token), token.info, token.content, _marks(page, tokens[:index])))
        _refuse_language(found[-1])
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield line and target of every link and picture of a page that leads to no other site."""
    for token in _tokens(page):
        for child in token.children or ():
            target = str(child.attrs.get("href") or child.attrs.get("src") or "")
            if target and not re.match(r"\w+:", target):
                yield _line(token), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges and the site make them."""
    tokens, found = _tokens(page), list[str]()
    for opening, token in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in token.children or ()).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            again = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in found)
            found.append(f"{anchor}-{again}" if again else anchor)
    return set(found)


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def _place(page: Path, token: Token) -> str:
    return f"{page.relative_to(ROOT)}:{_line(token)}"


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


def _marks(page: Path, before: list[Token]) -> dict[str, list[str]]:
    """The marks of all comments that stand between a block and whatever else is before it."""
    marks: dict[str, list[str]] = {}
    while before and before[-1].type == "html_block":
        comment = before.pop()
        found = list(_MARK.finditer(comment.content))
        if "".join(match.group() for match in found) != comment.content:
            wrong = comment.content.strip()
            raise PageError(
                f"{_place(page, comment)}: expected <!-- not run: WHY --> or another mark, found {wrong!r}"
            )
        for match in found:
            marks.setdefault(match[1], []).append(match[2])
    return marks


def _refuse_commands(page: Path, token: Token) -> None:
    if _COMMANDS.match(token.content):
        raise PageError(
            f"{page.relative_to(ROOT)}:{_line(token)}: commands in an indented block; fence them as sh"
        )


def _refuse_language(block: Block) -> None:
    known = (*RUN, *READ)
    if block.language not in known:
        raise PageError(f"{block.place}: expected a block of {', '.join(known)}, found {block.language!r}")
