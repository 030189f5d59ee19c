"""What `nox -s build` made: whether every wheel and source distribution holds what it should, and no more."""

import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
STRANGE = ("__pycache__", ".pyc", ".mypy_cache", ".pytest_cache", ".hypothesis", ".ruff_cache", "dist/")


def wheel(path: Path) -> tuple[dict[str, bytes], bytes]:
    """The files of a wheel, and its metadata."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (metadata,) = (content for name, content in files.items() if name.endswith(".dist-info/METADATA"))
    return files, metadata


def source(path: Path) -> tuple[dict[str, bytes], bytes]:
    """The files of a source distribution, without the folder that holds them, and its metadata."""
    files = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if (content := archive.extractfile(member)) is not None:
                files[member.name.partition("/")[2]] = content.read()
    return files, files["PKG-INFO"]


def complaints(package: Path, dist: Path) -> Iterator[str]:
    """What is wrong with a package's two distributions."""
    name = package.name.replace("-", "_")
    version = tomllib.loads((package / "pyproject.toml").read_text())["project"]["version"]
    tracked = {str(path.relative_to(package / "src")) for path in (package / "src").rglob("*")
               if path.is_file() and not any(part in path.as_posix() for part in STRANGE)}  # fmt: skip
    files, metadata = wheel(dist / f"{name}-{version}-py3-none-any.whl")
    yield from said_wrongly(package, metadata)
    inside = {path for path in files if not path.startswith(f"{name}-{version}.dist-info/")}
    yield from (f"the wheel lacks {path}" for path in sorted(tracked - inside))
    yield from (f"the wheel holds {path}" for path in sorted(inside - tracked))
    if files.get(f"{name}-{version}.dist-info/licenses/LICENSE") != (ROOT / "LICENSE").read_bytes():
        yield "the wheel lacks the LICENSE"
    files, metadata = source(dist / f"{name}-{version}.tar.gz")
    yield from said_wrongly(package, metadata)
    needed = {f"src/{path}" for path in tracked} | {"LICENSE", "README.md", "pyproject.toml"}
    yield from (f"the source distribution lacks {path}" for path in sorted(needed - set(files)))
    strange = [path for path in files if any(part in path for part in STRANGE)]
    yield from (f"the source distribution holds {path}" for path in sorted(strange))


def said_wrongly(package: Path, metadata: bytes) -> Iterator[str]:
    """What the metadata say wrongly; packaging itself refuses what no index takes."""
    told = Metadata.from_email(metadata, validate=True)
    if told.name != package.name:
        yield f"the metadata name {told.name}"
    if told.description is None or told.description.strip() != (package / "README.md").read_text().strip():
        yield "the description is not the README"
    if told.license_expression != "Apache-2.0":
        yield f"the licence is told as {told.license_expression}"


def main(dist: Path) -> None:
    """Print what is wrong, and end with 1 where something is."""
    found = [f"{package.name}: {line}" for package in PACKAGES for line in complaints(package, dist)]
    print("\n".join(found) or f"{2 * len(PACKAGES)} distributions are complete")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
