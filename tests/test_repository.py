import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
LONGEST_SOURCE = 500
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])/(?:home|root|work|workspace|Users|mnt|opt|srv|tmp|var)/\w")
CONFLICT_MARKER = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)
# Import name -> distribution, where they differ.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow"}

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def tracked_texts() -> Iterator[tuple[str, str]]:
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            yield str(path.relative_to(ROOT)), content.decode()


def metadata(package: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return project


def requirements(package: Path) -> list[Requirement]:
    project = metadata(package)
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(line) for line in chain(project["dependencies"], *extras)]


def constraints() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pins}


def import_package(package: Path) -> Path:
    return package / "src" / package.name.replace("-", "_")


def imported_distributions(package: Path) -> set[str]:
    """Every third-party distribution that the package's source imports anywhere, by its canonical name."""
    names = set()
    for source in import_package(package).rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    third_party = names - sys.stdlib_module_names - {import_package(package).name}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in third_party}


def test_no_source_file_is_longer_than_500_lines() -> None:
    lengths = {name: len(text.splitlines()) for name, text in tracked_texts() if name.endswith(".py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_SOURCE} == {}


def test_no_file_holds_a_path_of_one_machine() -> None:
    found = {name: MACHINE_PATH.findall(text) for name, text in tracked_texts()}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_no_file_holds_a_conflict_marker() -> None:
    assert [name for name, text in tracked_texts() if CONFLICT_MARKER.search(text)] == []


def test_every_package_has_the_same_version() -> None:
    assert len(PACKAGES) >= 3
    assert len({metadata(package)["version"] for package in PACKAGES}) == 1


def test_packages_require_each_other_at_their_own_version() -> None:
    names = {package.name for package in PACKAGES}
    version = metadata(PACKAGES[0])["version"]
    siblings = [line for package in PACKAGES for line in requirements(package) if line.name in names]
    assert siblings
    assert [str(line) for line in siblings if line.specifier and version not in line.specifier] == []
    assert [str(line) for line in siblings if not line.specifier] == []


def test_the_changelog_and_the_citation_name_the_version() -> None:
    version = metadata(PACKAGES[0])["version"]
    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


@each_package
def test_a_package_is_typed_and_carries_readme_and_licence(package: Path) -> None:
    assert (import_package(package) / "py.typed").is_file()
    assert (package / "README.md").is_file()
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@each_package
def test_a_package_declares_what_it_imports_and_no_more(package: Path) -> None:
    required = {canonicalize_name(Requirement(line).name) for line in metadata(package)["dependencies"]}
    imported = imported_distributions(package)
    assert required - imported == set()
    assert imported - {canonicalize_name(line.name) for line in requirements(package)} == set()


@each_package
def test_every_requirement_is_pinned_within_its_range(package: Path) -> None:
    pins = constraints()
    names = {path.name for path in PACKAGES}
    for requirement in requirements(package):
        if requirement.name not in names:
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_continuous_integration_runs_what_the_readme_tells_a_stranger() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (command,) = re.findall(r"^\s*(.* && \.venv/bin/nox)$", script.read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text().splitlines()
    assert command in [line.strip() for line in readme]
    assert f"{command} -s train" in [line.strip() for line in readme]
