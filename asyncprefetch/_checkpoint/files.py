"""A checkpoint's bytes as a file: written atomically and durably, read without ever being in memory twice."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from asyncprefetch._checkpoint.container import unpack_from
from asyncprefetch._checkpoint.save_order import Turn
from asyncprefetch.errors import CheckpointError

_PROBE = 4096  # bytes to try a directory with: a full disk may have room for none
_NO_DIRECTORY_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}


def unpack_file(path: str | os.PathLike[str], *, version: int) -> tuple[dict[str, JsonValue], list[bytes]]:
    """As :func:`unpack`, of a file, which is never in memory twice.

    Raises:
        CheckpointError: as :func:`unpack`; or the file can't be read, naming the path and the reason.
    """
    with _reading(path) as file:
        return unpack_from(file, os.fstat(file.fileno()).st_size, version)


def write_file(path: str | os.PathLike[str], *parts: bytes, turn: Turn | None = None) -> None:
    """Write a file of ``parts``, one after the other, atomically and durably.

    Afterwards the old file or the new file is there, whole, whatever happens.
    The file can be read and written by its owner only. A symbolic link at ``path`` is replaced, not followed.

    Args:
        path: the path of the file.
        parts: its bytes.
        turn: the place of this write among those to the same file, by default taken now. A file that was asked for later,
            by this process, is not replaced.

    Raises:
        CheckpointError: it names the path and the reason. The old file is as it was, and no other file is left. If only
            the sync of the directory failed, the message says so: the new file is there, but a power cut may bring the
            old one back.
    """
    with turn or Turn() as taken:
        try:
            target = Path(path)
            temporary = _beside(target)
            taken.at(target)
            file = open(temporary, "xb", opener=_open_private)  # noqa: SIM115 - what did not open is not unlinked
            try:
                with file:
                    file.writelines(parts)
                    file.flush()
                    os.fsync(file.fileno())
                taken.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except (OSError, ValueError) as error:  # ValueError: the path has a NUL, or no name
            raise CheckpointError(f"can't write {os.fspath(path)!r}: {_reason(error)}") from error
        # Also if a newer file was kept: the write of that file may not have reached this point yet.
        try:
            _sync_directory(target.parent)
        except OSError as error:
            raise CheckpointError(
                f"wrote {os.fspath(path)!r}, but can't sync its directory: {_reason(error)}"
            ) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that :func:`write_file` could write a small file to ``path`` now, by all its steps but the last.

    The file at ``path`` stays as it is, and no other file is left.

    Raises:
        CheckpointError: it could not. The message names the path and the reason.
    """
    try:
        target = Path(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(target).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary = _beside(target)
        file = open(temporary, "xb", opener=_open_private)  # noqa: SIM115 - what did not open is not unlinked
        try:
            with file:
                file.write(bytes(_PROBE))
                file.flush()
                os.fsync(file.fileno())
        finally:
            os.unlink(temporary)
        _sync_directory(target.parent)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"can't write {os.fspath(path)!r}: {_reason(error)}") from error


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The file, open. Errors with it are raised as a ``CheckpointError`` that names the path and the reason."""
    name = os.fspath(path)  # an int would be taken for a descriptor, and closed
    try:
        with open(name, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            yield file
    except CheckpointError as error:
        raise CheckpointError(f"{name!r}: {error}") from error.__cause__
    except (OSError, ValueError, MemoryError) as error:
        raise CheckpointError(f"can't read {name!r}: {_reason(error)}") from error


def _beside(target: Path) -> Path:
    return target.with_name(f".asyncprefetch-{secrets.token_hex(8)}.tmp")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open_without_waiting(path: str, flags: int) -> int:
    # To open a pipe without a writer would wait forever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _sync_directory(directory: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows: a directory can't be opened
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:  # some file systems, and directories that can't be listed
            raise


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
