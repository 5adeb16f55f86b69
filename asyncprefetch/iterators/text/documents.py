"""Text documents from files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal, Self

from pydantic import NonNegativeInt, model_validator

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import DocumentError, Place, SourceFile, refuse
from asyncprefetch.iterators.text._formats import reader_of, require_packages
from asyncprefetch.iterators.text._listing import list_files, summarize
from asyncprefetch.iterators.text._skipping import OnError, pass_over

__all__ = ["Document", "DocumentError", "DocumentFileIterator", "DocumentFileState"]


class DocumentFileState(IteratorState, kind="asyncprefetch.documents", frozen=True):
    """Which files, and where in them: of one size however many files and rows there are.

    Attributes:
        paths: what was given.
        exclude: shell patterns of names that are left out.
        encoding_errors: what is done with bytes that are no UTF-8.
        on_error: what is done with a row that can't be read.
        text_field: the field, or column, of the text.
        id_field: that of the name of a document; ``None``: none.
        entropies_field: that of the entropies; ``None``: none.
        columns: further fields that documents have.
        shard: which documents are ours, as ``(index, count)``.
        listing: number, bytes and digest of the files, against which they are checked.
        document: how many documents, of all shards, come before the next one.
        file: index of the file in progress, in the sorted listing.
        offset: byte in that file at which the next line, or of an ``.arrow`` file of the stream kind the record batch
            in progress, begins; of a compressed file, in its content.
        skip: how many rows of the record batch in progress come before the next one.
        row: number, in the file, of the next row.
        size: bytes of the file in progress, against which it is checked; 0: none of it has been read.
        head: hash of its first 65,536 bytes, against which it is checked; empty: none of it has been read.
        batch: number of the record batch in progress, of an ``.arrow`` file of the file kind. States that have its first
            byte as ``offset`` instead are understood, too.
        trail: digest of the heads of all files that were read before the one in progress, in which documents of ours
            were. It is checked by iterators that draw documents again; to go on from here, none of them is read.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...]
    encoding_errors: Literal["strict", "replace"]
    on_error: OnError = "raise"
    text_field: str = "text"
    id_field: str | None = "sample_id"
    entropies_field: str | None = "entropies"
    columns: tuple[str, ...] = ()
    shard: tuple[NonNegativeInt, NonNegativeInt]
    listing: str
    document: Position[NonNegativeInt] = 0
    file: Position[NonNegativeInt] = 0
    offset: Position[NonNegativeInt] = 0
    skip: Position[NonNegativeInt] = 0
    row: Position[NonNegativeInt] = 0
    size: Position[NonNegativeInt] = 0
    head: Position[str] = ""
    batch: Position[NonNegativeInt] = 0
    trail: Position[str] = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        index, count = self.shard
        if index >= count:
            raise ValueError(f"shard {index} of {count}, counted from 0")
        return self

    def build(self) -> DocumentFileIterator:
        """The iterator that seeks to the place and reads on. It looks at no file before its first item."""
        iterator = DocumentFileIterator.__new__(DocumentFileIterator)
        iterator._resume(self, None)
        return iterator


class DocumentFileIterator(StatefulIterator[Document]):
    """The documents of files, in the order of the files' names.

    - ``.txt``, ``.py``, ``.md``: each file is one document. One of no bytes is an error, for most often it is what a
      failed copy left: leave it out by ``exclude``, or pass over it by ``on_error="skip"``.
    - ``.jsonl``, ``.jsonl.gz``, ``.jsonl.zst``: each row is one, a JSON object. Blank lines count as rows and are no
      documents.
    - ``.parquet``, ``.arrow`` (the file kind and the stream kind): each row is one.

    A row has the field ``text``, and, if it likes, ``sample_id`` (a string or an integer) and ``entropies`` (a list of
    finite numbers). Further fields are passed over. JSON may be nested 201 levels deep.

    Resuming opens the file in progress and seeks: to the byte of a line, to the row group of a ``.parquet`` file,
    to the record batch of an ``.arrow`` file. At most that group or batch is read again. A compressed ``.jsonl`` can't
    seek: it is decompressed from its start, without being parsed, and the log (level INFO) says so. Nor can an arrow stream
    with a column of dictionaries: the batches before the place are passed over. A set of files whose names or sizes have
    changed is refused, and so is a file in progress whose first 65,536 bytes have.

    Args:
        paths: a file, a folder (searched through), a glob (``**`` included), a URL of fsspec (``s3://bucket/*.parquet``,
            again a file, a folder, or a glob), or several of them. Each file counts once. Names that begin with a dot
            are left out of folders and globs. URLs, ``.parquet``, ``.arrow`` and ``.zst`` need the extra ``files``.
        shard: ``(index, count)``: of the documents, counted from 0, those whose number is ``index`` modulo ``count``.
            Of a ``.parquet`` file, as many rows as by that rule, but rows that lie together, so that only the row groups
            with some of them are read. Text files of other shards are not read; of ``.arrow`` files on this machine only
            the pages with our rows, and what says where rows lie; lines of other shards are read but not parsed.
        exclude: a shell pattern, or several; a file is left out if one of them matches its name or that of a folder
            below the path that was given.
        encoding_errors: ``"replace"`` puts U+FFFD in place of bytes that are no UTF-8; ``"strict"`` raises.
        on_error: what is done with a row, or a file, that can't be read: ``"raise"``; or ``"skip"``: pass over it, count
            it as ``"documents skipped"``, and log a warning for the first ten of each file. A row, or a text file,
            counts once. So does, however many rows it holds, what is damaged as a whole: a record batch of an ``.arrow``
            file, the rest of a row group of a ``.parquet`` file, the rest of a compressed file or of an arrow stream,
            and a file of rows; each shard counts these (of row groups, each that has rows in that rest). Rows of other
            shards are neither looked at nor counted. A file that changed since the checkpoint, or that can't be opened
            or got at, is an error all the same, and so is want of memory.
        text_field: the field, or column, of the text.
        id_field: that of the name of a document; ``None``: name all by file and row.
        entropies_field: that of the entropies; ``None``: don't read them.
        columns: further fields, which every row must have and each document then has in ``Document.columns``.

    Raises:
        DocumentError: a path does not exist, or holds no file to read.
        ModuleNotFoundError: an optional package is missing; the message names the extra.
        ValueError: an option is not as described.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        shard: tuple[int, int] = (0, 1),
        exclude: str | Sequence[str] = (),
        encoding_errors: Literal["strict", "replace"] = "strict",
        on_error: OnError = "raise",
        text_field: str = "text",
        id_field: str | None = "sample_id",
        entropies_field: str | None = "entropies",
        columns: Sequence[str] = (),
    ) -> None:
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        names = tuple(os.fspath(path) for path in given)
        if not names:
            raise DocumentError("no paths were given")
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard must be (index, count) with 0 <= index < count, not {shard!r}")
        if isinstance(columns, str):
            raise ValueError(f"columns must be a sequence of names, such as ({columns!r},), not the string {columns!r}")
        patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        files = list_files(names, patterns)
        require_packages(file.name for file in files)
        state = DocumentFileState(
            paths=names,
            exclude=patterns,
            encoding_errors=encoding_errors,
            on_error=on_error,
            text_field=text_field,
            id_field=id_field,
            entropies_field=entropies_field,
            columns=tuple(columns),
            shard=(index, count),
            listing=summarize(files),
        )
        self._resume(state, files)

    def _resume(self, state: DocumentFileState, files: list[SourceFile] | None) -> None:
        self._state = state  # for all but the place
        self._place = Place(*(getattr(state, name) for name in Place._fields))
        self._trail = state.trail
        self._files = files

    def get_state(self) -> DocumentFileState:
        """The place behind the document last yielded, or behind the last file once they have ended."""
        return self._state.model_copy(update={**self._place._asdict(), "trail": self._trail})

    def create_iter(self) -> Iterator[Document]:
        """The documents that are still to come.

        Raises:
            DocumentError: the files changed; or one is empty, or holds invalid UTF-8, a broken row, a row without
                ``text``, or, being of rows, none. The message names file and row, and what to do.
            OSError: a file can't be opened or read.
        """
        if self._files is None:
            self._files = self._list_again()
        files, place, trail = self._files, self._place, self._trail
        if place.file > len(files):
            raise DocumentError(
                f"the place is in file {place.file} of {len(files)}: the checkpoint is not of these files"
            )
        state = self._state
        wanted = Wanted(
            state.text_field, state.id_field, state.entropies_field, state.columns, state.encoding_errors, state.shard
        )
        while place.file < len(files):
            begin, file, errors = place, files[place.file], 0
            head = begin.head
            for behind, document in reader_of(file.name)(file, begin, wanted):
                place, head = behind, behind.head or head
                if place.file > begin.file:
                    # Of a text file the place behind it tells what was its head.
                    place, trail, head = behind._replace(head=""), _extended(trail, head), ""
                if isinstance(document, Document):
                    self._place, self._trail = place, trail
                    yield document
                elif document is not None:
                    pass_over(document, state.on_error, errors)
                    errors += 1
            if place.document == begin.document and begin.row == 0 and not errors:
                pass_over(refuse(file, None, "the file is empty: it holds no row"), state.on_error, 0)
        self._place, self._trail = place, trail

    def _list_again(self) -> list[SourceFile]:
        state = self._state
        files = list_files(state.paths, state.exclude)
        if summarize(files) != state.listing:
            raise DocumentError(
                f"the files of {', '.join(state.paths)} are not those of the checkpoint: it had {state.listing}; now "
                f"there are {summarize(files)}. Bring them back as they were, or start anew without the checkpoint"
            )
        return files


def _extended(trail: str, head: str) -> str:
    """The digest of the files read so far, by one more; by none if nothing of it was looked at."""
    return blake2b(f"{trail} {head}".encode(), digest_size=8).hexdigest() if head else trail
