"""Text documents from files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy.typing as npt
from pydantic import NonNegativeInt

from asyncprefetch._registry import register
from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._listing import DocumentError, SourceFile, describe, list_files


@register("asyncprefetch.Document")
@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        sample_id: what the data calls it, or ``"folder/file.txt"``, or ``"folder/file.jsonl:row"``, rows from 0.
        text: the text, with its line ends as they are in the file.
        entropies: floats of shape ``(tokens,)`` or ``(bytes of the text,)``, from which patches are made, or ``None``.
    """

    sample_id: str
    text: str
    entropies: npt.NDArray[Any] | None = None


class DocumentFileState(IteratorState, kind="asyncprefetch.documents", frozen=True):
    """Which files, and where in them: of one size however many files and rows there are.

    Attributes:
        paths: what was given.
        exclude: shell patterns of names that are left out.
        encoding_errors: what is done with bytes that are no UTF-8.
        shard: which documents are ours, as ``(index, count)``.
        listing: number, bytes and digest of the files, against which they are checked.
        document: how many documents, of all shards, come before the next one.
        file: index of the file in progress, in the sorted listing.
        offset: byte in that file at which the next row begins.
        row: number of that row.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...]
    encoding_errors: Literal["strict", "replace"]
    shard: tuple[NonNegativeInt, NonNegativeInt]
    listing: str
    document: Position[NonNegativeInt] = 0
    file: Position[NonNegativeInt] = 0
    offset: Position[NonNegativeInt] = 0
    row: Position[NonNegativeInt] = 0

    def build(self) -> DocumentFileIterator:
        """The iterator that seeks to the offset and reads on. It looks at no file before its first item."""
        iterator = DocumentFileIterator.__new__(DocumentFileIterator)
        iterator._state, iterator._files = self, None
        return iterator


class DocumentFileIterator(StatefulIterator[Document]):
    """The documents of text files, one a file, and of ``.jsonl`` files, one a row, in the order of the files' names.

    A row of a ``.jsonl`` file is a JSON object with the field ``text``, and, if it likes, ``sample_id`` (a string or
    an integer); further fields are passed over, and so are blank lines, which count as rows but are no documents.

    Resuming opens the file in progress and seeks. A set of files whose names or sizes have changed is refused.

    Args:
        paths: a file (``.txt``, ``.py``, ``.md``, ``.jsonl``), a folder (searched through), a glob (``**`` included),
            or several of them. Each file counts once. Names that begin with a dot are left out of folders and globs.
        shard: ``(index, count)``: of the documents, counted from 0, those whose number is ``index`` modulo ``count``.
            Text files of other shards are not read; the rows of others are read but not parsed.
        exclude: shell patterns; a file is left out if one of them matches its name or that of a folder below the
            path that was given.
        encoding_errors: ``"replace"`` puts U+FFFD in place of bytes that are no UTF-8; ``"strict"`` raises.

    Raises:
        DocumentError: a path does not exist, or holds no file to read.
        ValueError: ``shard`` or ``encoding_errors`` is not as described.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        shard: tuple[int, int] = (0, 1),
        exclude: Sequence[str] = (),
        encoding_errors: Literal["strict", "replace"] = "strict",
    ) -> None:
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        names = tuple(os.fspath(path) for path in given)
        if not names:
            raise DocumentError("no paths were given")
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard must be (index, count) with 0 <= index < count, not {shard!r}")
        self._files: list[SourceFile] | None = list_files(names, tuple(exclude))
        self._state = DocumentFileState(
            paths=names,
            exclude=tuple(exclude),
            encoding_errors=encoding_errors,
            shard=(index, count),
            listing=describe(self._files),
        )

    def get_state(self) -> DocumentFileState:
        """The place behind the document last yielded."""
        return self._state

    def create_iter(self) -> Iterator[Document]:
        """The documents that are still to come.

        Raises:
            DocumentError: the files changed, or one holds invalid UTF-8, a broken row, or a row without ``text``; the
                message names file and row, and what to do.
        """
        if self._files is None:
            self._files = self._list_again()
        state = self._state
        index, count = state.shard
        number, offset, row = state.document, state.offset, state.row
        for current, file in enumerate(self._files[state.file :], state.file):
            if file.name.lower().endswith(".jsonl"):
                for line_row, end, line in _rows(file, offset, row):
                    number += 1
                    if (number - 1) % count == index:
                        document = _parse(line, state.encoding_errors, file, line_row)
                        self._go_to(document=number, file=current, offset=end, row=line_row + 1)
                        yield document
                offset, row = 0, 0
            else:
                number += 1
                if (number - 1) % count == index:
                    document = Document(file.name, _decode(_read(file), state.encoding_errors, file))
                    self._go_to(document=number, file=current + 1, offset=0, row=0)
                    yield document

    def _go_to(self, **place: int) -> None:
        self._state = self._state.model_copy(update=place)

    def _list_again(self) -> list[SourceFile]:
        state = self._state
        files = list_files(state.paths, state.exclude)
        if describe(files) != state.listing:
            raise DocumentError(
                f"the files of {', '.join(state.paths)} are not those of the checkpoint: it had {state.listing}; now "
                f"there are {describe(files)}. Bring them back as they were, or start anew without the checkpoint"
            )
        return files


def _check_size(file: SourceFile, opened: BinaryIO) -> None:
    if os.fstat(opened.fileno()).st_size != file.size:
        raise _refuse(file, None, f"its size is not the {file.size} bytes that it had when the files were listed")


def _read(file: SourceFile) -> bytes:
    with open(file.path, "rb") as opened:
        _check_size(file, opened)
        return opened.read()


def _rows(file: SourceFile, offset: int, row: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, end (in bytes) and content of each row that is not blank, from the row ``row`` at ``offset`` on."""
    with open(file.path, "rb") as lines:
        _check_size(file, lines)
        lines.seek(max(0, offset - 1))
        if 0 < offset < file.size and lines.read(1) != b"\n":
            raise _refuse(file, row, f"no row begins at byte {offset}: the file changed since the checkpoint")
        lines.seek(offset)
        for number, line in enumerate(lines, row):
            offset += len(line)
            if not line.isspace():
                yield number, offset, line


def _parse(line: bytes, errors: str, file: SourceFile, row: int) -> Document:
    try:
        fields = json.loads(_decode(line, errors, file, row))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _refuse(file, row, f"broken JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _refuse(file, row, f"a row must be a JSON object with the field 'text', not {line[:40]!r}")
    if "text" not in fields:
        raise _refuse(file, row, f"the field 'text' is missing; there are {', '.join(map(repr, fields)) or 'none'}")
    text, sample_id = fields["text"], fields.get("sample_id")
    if not isinstance(text, str):
        raise _refuse(file, row, f"the field 'text' must be a string, not {text!r:.40}")
    if sample_id is not None and not isinstance(sample_id, str | int):
        raise _refuse(file, row, f"the field 'sample_id' must be a string or an integer, not {sample_id!r:.40}")
    if b"\\u" in line:
        # An escape can name half of a surrogate pair, which is no character and has no UTF-8.
        text = _decode(text.encode("utf-8", "surrogatepass"), errors, file, row)
    return Document(f"{file.name}:{row}" if sample_id is None else str(sample_id), text)


def _decode(data: bytes, errors: str, file: SourceFile, row: int | None = None) -> str:
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise _refuse(
            file,
            row,
            f"not UTF-8 ({error}): convert the file, leave it out by exclude=, or use encoding_errors='replace'",
        ) from error


def _refuse(file: SourceFile, row: int | None, reason: str) -> DocumentError:
    place = file.path if row is None else f"{file.path}, row {row} (line {row + 1})"
    return DocumentError(f"{place}: {reason}", file=file.name, row=row)
