"""How the site is built from the pages beside this file: `nox -s docs`."""

import re
from os.path import relpath
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "GSTO"
author = "The GSTO contributors"
html_title = "GSTO"
html_theme = "furo"
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4
nitpicky = True
# Names of other projects lead nowhere: the site is built without the network, hence without their indices.
nitpick_ignore_regex = [
    ("py:.*", r"(?!gsto_).*"),
    ("py:.*", r"gsto_spec\.rewrite\.Match|gsto_torch\.schedule\.Step"),
]

default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"

DOCS = Path(__file__).parent
ROOT_PAGES = {"README.md": "readme", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
"""Pages of the top folder, and what they are called on the site."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Put a page of the top folder in the place of the one that only leads to it, and mend its links."""
    folder = DOCS
    for name, called in ROOT_PAGES.items():
        if page == called:
            source[0], folder = (DOCS.parent / name).read_text(encoding="utf-8"), DOCS.parent
    source[0] = LINK.sub(lambda link: _mended(link, folder), source[0])


def _mended(link: re.Match[str], folder: Path) -> str:
    """A link as the site has it: what is there, but not on the site, is only named."""
    text, target, anchor = link.groups(default="")
    path = (folder / target).resolve()
    if path.parent == DOCS.parent and path.name in ROOT_PAGES:
        return f"[{text}]({ROOT_PAGES[path.name]}.md{anchor})"
    if path.is_relative_to(DOCS) or not path.exists():
        return f"[{text}]({relpath(path, DOCS)}{anchor})"
    return text


def find_public_name(
    app: Sphinx, environment: BuildEnvironment, reference: pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Lead a type that an annotation names by the module that defines it to where it is described."""
    if reference.get("refdomain") != "py":
        return None
    last = str(reference["reftarget"]).rpartition(".")[2]
    domain = environment.domains.python_domain
    found = [name for name in domain.objects if name.startswith("gsto_") and name.endswith(f".{last}")]
    if not str(reference["reftarget"]).startswith("gsto_") or not found:
        return None
    best = min(found, key=len)
    return domain.resolve_xref(environment, reference["refdoc"], app.builder, "obj", best, reference, shown)


def lay_out_lists(app: Sphinx, kind: str, name: str, *rest: Any) -> None:
    """Part a list from the sentence above it: docstrings do without the blank line that Sphinx wants."""
    lines: list[str] = rest[-1]
    lines[:] = re.sub(r"^(?!- |  )(.+)\n(?=- )", r"\1\n\n", "\n".join(lines), flags=re.MULTILINE).split("\n")


def readable_defaults(app: Sphinx, *rest: Any) -> tuple[str | None, str | None]:
    """Say ... for a default that is made anew each time: what Sphinx would write is no expression."""
    signature, returned = rest[-2:]
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", lay_out_lists)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", find_public_name)
    return {"parallel_read_safe": True}
