"""The files that a path, a folder, a glob or a URL stands for, in a fixed order, and their names."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._files import SourceFile
from asyncprefetch.iterators.text._formats import SUFFIXES, is_known

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def list_files(paths: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
    """Return the files that ``paths`` stand for, each once, sorted by name.

    A name is relative to the folder that holds everything that was given, and has slashes on every system. If there are
    files from several filesystems, those at a URL have their full URL as name.

    Raises:
        DocumentError: one of ``paths`` does not exist, or stands for no file with a known suffix.
        ModuleNotFoundError: a path is a URL, and fsspec is not installed.
    """
    # Names and sizes of files, by filesystem (None: local) and by folder in it.
    places: dict[Any, dict[str, dict[str, int]]] = {}
    for given in paths:
        is_url = _URL.match(given) and not os.path.lexists(given)
        filesystem, root, sizes = _expand_url(given, exclude) if is_url else _expand(given, exclude)
        if not sizes:
            raise DocumentError(_nothing_found(given) if filesystem is None else _holds_nothing(given), file=given)
        places.setdefault(filesystem, {}).setdefault(root, {}).update(sizes)
    found: dict[str, SourceFile] = {}
    for filesystem, roots in places.items():
        path = os.path if filesystem is None else posixpath
        base = path.commonpath(roots)
        origin = "" if filesystem is None or len(places) == 1 else f"{filesystem.unstrip_protocol(base)}/"
        for root, sizes in roots.items():
            prefix = "" if root == base else path.relpath(root, base).replace(os.sep, "/") + "/"
            for name, size in sizes.items():
                full = origin + prefix + name
                found[full] = SourceFile(path.join(root, name), full, size, filesystem)
    return [found[name] for name in sorted(found)]


def summarize(files: Sequence[SourceFile]) -> str:
    """Return a listing in one line: the number of files, their total size, and a digest of all names and sizes."""
    digest = blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.name}\0{file.size}\0".encode("utf-8", "surrogateescape"))
    return f"{len(files)} files, {sum(file.size for file in files)} bytes, digest {digest.hexdigest()}"


def _expand(given: str, exclude: Sequence[str]) -> tuple[None, str, dict[str, int]]:
    """Return the folder to which names are relative, and the names and sizes of its files that are not excluded."""
    if os.path.isdir(given):
        root, names = given, [name for name in _walk(given, exclude) if is_known(name)]
    else:
        if os.path.isfile(given):
            _check_known(given)
            root, matches = os.path.dirname(given), [given]
        else:
            fixed = _fixed_part(Path(given).parts, given)
            root = str(Path(*fixed))
            matches = [path for path in glob.iglob(given, recursive=True) if is_known(path) and os.path.isfile(path)]
        relative = [Path(path).relative_to(root).as_posix() for path in matches]
        names = [name for name in relative if not _any_excluded(name, exclude)]
    root = os.path.abspath(root)
    return None, root, {name: os.path.getsize(os.path.join(root, name)) for name in names}


def _expand_url(given: str, exclude: Sequence[str]) -> tuple[Any, str, dict[str, int]]:
    """Return the filesystem of fsspec, then the same as :func:`_expand`."""
    filesystem, path = load("fsspec", "files", f"the URL {given!r}").core.url_to_fs(given)
    path = path or "/"
    filesystem.invalidate_cache()  # the listing must be that of now
    hidden = "/." in path  # as in a local glob, names that begin with a dot have to be asked for
    if filesystem.isdir(path):
        root, infos = path, filesystem.find(path, detail=True)
    elif filesystem.exists(path):
        _check_known(given)
        root, infos, hidden = posixpath.dirname(path), {path: filesystem.info(path)}, True
    else:
        root = "/".join(_fixed_part(path.split("/"), given)) or "/"
        infos = filesystem.glob(path, detail=True)
    sizes = {}
    for found, info in infos.items():
        name = posixpath.relpath(found, root)
        parts = name.split("/")
        if info["type"] != "file" or not is_known(name) or _any_excluded(name, exclude):
            continue
        if hidden or not any(part.startswith(".") for part in parts):
            if info["size"] is None:
                raise DocumentError(
                    f"{given!r}: {found} has no known size, by which the library identifies it", file=given
                )
            sizes[name] = info["size"]
    return filesystem, root, sizes


def _nothing_found(given: str) -> str:
    """Return the error for a local path without files. It may be a glob in a folder whose name looks like a pattern."""
    parts = Path(given).parts
    existing = 0
    while existing < len(parts) and os.path.lexists(Path(*parts[: existing + 1])):
        existing += 1
    if existing == len(parts) or not any(map(glob.has_magic, parts[:existing])):
        return _holds_nothing(given)
    if not any(map(glob.has_magic, parts[existing:])):
        return f"{given!r} does not exist"
    escaped = str(Path(*map(glob.escape, parts[:existing]), *parts[existing:]))
    folder = str(Path(*parts[:existing]))
    return (
        f"{given!r} matches no file. The folder {folder!r} exists, but * ? and [ ] in a glob are patterns. "
        f"To search in this folder, write {escaped!r}"
    )


def _holds_nothing(given: str) -> str:
    return f"{given!r} holds no file ({', '.join(SUFFIXES)}) that is not excluded"


def _check_known(given: str) -> None:
    if not is_known(given):
        raise DocumentError(f"{given!r} is not one of {', '.join(SUFFIXES)}", file=given)


def _fixed_part(parts: Sequence[str], given: str) -> Sequence[str]:
    """Return the parts of a path before the first one that is a pattern."""
    for i, part in enumerate(parts):
        if any(c in part for c in "*?["):
            return parts[:i]
    raise DocumentError(f"{given!r} does not exist", file=given)


def _walk(folder: str, exclude: Sequence[str], prefix: str = "") -> Iterator[str]:
    # As in a glob, names that begin with a dot (.git, .venv) are left out, and links to folders are not followed.
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and not _excluded(entry.name, exclude)]
    for entry in kept:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, exclude, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield prefix + entry.name


def _any_excluded(name: str, exclude: Sequence[str]) -> bool:
    return any(_excluded(part, exclude) for part in name.split("/"))


def _excluded(name: str, exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in exclude)
