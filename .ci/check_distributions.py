"""Check what a wheel and an sdist contain: ``python .ci/check_distributions.py FOLDER``, from the root of the source.

The wheel holds the package and nothing else. The sdist holds all that is needed to build, to test and to read.
"""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOTS = ("asyncprefetch", "tests", "examples", "docs")
DOCUMENTS = (
    "pyproject.toml",
    "mkdocs.yml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
)
ADDED = {"PKG-INFO"}  # by the build


def sources(*roots: str) -> set[str]:
    """The files of the source tree."""
    files = {path for root in roots for path in Path(root).rglob("*") if path.is_file()}
    return {str(path) for path in files if "__pycache__" not in path.parts}


def check(what: str, found: set[str], expected: set[str]) -> None:
    """Say what is missing, and what should not be there."""
    if found != expected:
        sys.exit(f"{what}: missing {sorted(expected - found)}, not expected {sorted(found - expected)}")
    print(f"{what}: {len(found)} files")


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist in a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    package = sources("asyncprefetch")
    assert "asyncprefetch/py.typed" in package
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    check(wheel.name, names, package)
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    kept = {name for name in files if name.partition("/")[0] in ROOTS or name in DOCUMENTS}
    check(sdist.name, kept, sources(*ROOTS) | set(DOCUMENTS))
    check("other files in the sdist", {name for name in files - kept if not name.startswith(".")}, ADDED)


main(Path(sys.argv[1]))
