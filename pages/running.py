"""Runs the blocks of a page in their order, in one folder and one namespace, as a reader would."""

import contextlib
import doctest
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import commands
from pages.markdown import ROOT, Block, PageError

LONGEST = 600.0
"""Seconds that a block may take before it counts as hanging."""
QUICK_COMPILERS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
}
"""XLA's compiling would take most of the time."""
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def take(self, block: Block) -> None:
        """Run, write or parse a block; raises `PageError`, beginning with its place, where it fails."""
        try:
            self._prepare(block)
            printed = self._done(block)
        except PageError:
            raise
        except (Exception, SystemExit) as error:
            raise PageError(f"{block.place}: {type(error).__name__}: {error}") from error
        if block.output is not None and "not run" not in block.marks:
            _compare(block, printed)

    def _prepare(self, block: Block) -> None:
        for script in block.marks.get("before", ()):
            self._shell(block, f"set -e\n{script}", {"PYTHONPATH": str(ROOT), "REPOSITORY": str(ROOT)})

    def _done(self, block: Block) -> str:
        for name in block.marks.get("file", ()):
            (self.folder / name).write_text(block.code, encoding="utf-8")
            return ""
        match block.language:
            case "python" if "not run" in block.marks:
                compile(block.code, block.place, "exec")
            case "python":
                return self._python(block)
            case "sh" if "not run" in block.marks:
                commands.check(block.code)
            case "sh":
                return self._shell(block, _script(block), {})
            case "toml":
                tomllib.loads(block.code)
            case "json":
                json.loads(block.code)
            case _:
                pass
        return ""

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        with _standing_in(self.folder), contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, str(block.page), "exec"), self.names)
        return printed.getvalue()

    def _shell(self, block: Block, script: str, more: dict[str, str]) -> str:
        status, printed, told = _bash(script, self.folder, more)
        if status:
            raise PageError(f"{block.place}: ended with {status}\n{script}\n{printed}\n{told}")
        return printed


def _script(block: Block) -> str:
    """The block's commands, each with the options that make it quick, and every status looked at."""
    quick = "\n".join(map(_with_options, block.marks.get("run with", ())))
    expected = block.marks.get("ends with", [])
    if not expected:
        return f"set -euo pipefail\n{quick}\n{block.code}"
    trap = "ended=''; trap 'ended=\"$ended $?\"' ERR"
    return f"{trap}\n{quick}\n{block.code}\n[ \"$ended\" = ' {expected[0]}' ]"


def _with_options(mark: str) -> str:
    """A shell function that stands in for a command, and gives it options of its own."""
    name, _, options = " ".join(mark.split()).partition(" ")
    return f'{name}() {{ command {name} "$@" {options}; }}'


def _bash(script: str, folder: Path, more: dict[str, str]) -> tuple[int, str, str]:
    """Status, output and errors of a script; all that it started ends with it."""
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=_environment() | more,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, told = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, told = process.communicate()
        return -1, printed, f"{told}\nstill running after {LONGEST:g} s"
    return process.returncode, printed, told


def _environment() -> dict[str, str]:
    """A reader's environment: this Python's commands first, one thread, no terminal."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GSTO_", "PYTEST_"))}
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **QUICK_COMPILERS}


@contextlib.contextmanager
def _standing_in(folder: Path) -> Iterator[None]:
    """The page's folder is the current one and on Python's path; its modules are forgotten afterwards."""
    before, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def _compare(block: Block, printed: str) -> None:
    """The text block after a block is what it prints; `...` stands for anything, blanks for any blanks."""
    wanted = re.sub(r"\s+\Z", "\n", block.output or "")
    if not doctest.OutputChecker().check_output(wanted, printed, _FLAGS):
        raise PageError(f"{block.place}: printed\n{printed}\nwhere the page shows\n{wanted}")
