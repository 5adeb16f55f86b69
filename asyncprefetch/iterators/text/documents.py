"""Text documents from files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Literal, Self

from pydantic import NonNegativeInt, model_validator

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import Place, SourceFile, refuse
from asyncprefetch.iterators.text._formats import reader_of, require_packages
from asyncprefetch.iterators.text._formats.encodings import UTF8, check_encoding
from asyncprefetch.iterators.text._listing import list_files, summarize
from asyncprefetch.iterators.text._skipping import OnError, pass_over

__all__ = ["Document", "DocumentError", "DocumentFileIterator", "DocumentFileState"]


class DocumentFileState(IteratorState, kind="asyncprefetch.documents", frozen=True):
    """The files and the place in them. Its size does not depend on the number of files and rows.

    Attributes:
        paths: the paths that were given.
        exclude: shell patterns of names that are left out.
        encoding_errors: what to do with bytes that are not text in the encoding.
        on_error: what to do with a row that can't be read.
        text_field: the field, or column, with the text.
        id_field: the field with the name of a document; ``None``: none.
        entropies_field: the field with the entropies; ``None``: none.
        columns: further fields that documents have.
        encoding: the encoding of text files and JSON lines.
        shard: which documents belong to this shard, as ``(index, count)``.
        listing: number, size and digest of the files. A resume compares it.
        document: how many documents of all shards come before the next one.
        file: index of the current file in the sorted listing.
        offset: byte in that file at which the next line begins, or the current record batch of an ``.arrow`` file in the
            stream format. In a compressed file it counts decompressed bytes.
        skip: how many rows of the current record batch come before the next one.
        row: number of the next row in the file.
        size: size of the current file in bytes. A resume compares it. 0: none of the file was read.
        head: hash of its first 65,536 bytes. A resume compares it. Empty: none of the file was read.
        batch: number of the current record batch of an ``.arrow`` file in the file format. States that have its first byte
            as ``offset`` instead can be read too.
        trail: digest of the heads of all files before the current one that held documents of this shard. Iterators that
            draw documents again compare it. A resume from here reads none of these files.
    """

    paths: tuple[str, ...]
    exclude: tuple[str, ...]
    encoding_errors: Literal["strict", "replace"]
    on_error: OnError = "raise"
    text_field: str = "text"
    id_field: str | None = "sample_id"
    entropies_field: str | None = "entropies"
    columns: tuple[str, ...] = ()
    encoding: str = UTF8
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
        """Return the iterator that seeks to the place and continues. It opens no file before its first item."""
        iterator = DocumentFileIterator.__new__(DocumentFileIterator)
        iterator._resume(self, None)
        return iterator


class DocumentFileIterator(StatefulIterator[Document]):
    """Yields the documents of files, in the order of the files' names.

    - ``.txt``, ``.py``, ``.md``: each file is a document. An empty file is an error, because it usually results from a
      failed copy: exclude it with ``exclude``, or skip it with ``on_error="skip"``.
    - ``.jsonl``, ``.jsonl.gz``, ``.jsonl.zst``: each line is a document, a JSON object. Blank lines count as rows, but not
      as documents.
    - ``.parquet``, ``.arrow`` (the file format and the stream format): each row is a document.

    Text is UTF-8 unless ``encoding`` says otherwise. A byte order mark at the beginning of a file is not part of the first
    document. A file of UTF-8 with the mark of UTF-16 or UTF-32 is an error.

    In a damaged file, the whole rows before the damage are yielded first: the rows of a compressed file, the record batches
    of an ``.arrow`` file, also without its index, and the rows of a ``.parquet`` file before a damaged page. Then the error
    follows. It names the row after the last good one.

    A row has the field ``text`` and, optionally, ``sample_id`` (a string or an integer) and ``entropies`` (a list of finite
    numbers). Further fields are ignored. JSON may be nested 201 levels deep.

    Resuming opens the current file and seeks: to the byte of a line, to the row group of a ``.parquet`` file, or to the
    record batch of an ``.arrow`` file. At most that group or batch is read again. Two kinds of files can't seek. A
    compressed ``.jsonl`` file is decompressed from its beginning, without parsing, and the log (level INFO) says so. In
    an arrow stream with a dictionary column, the batches before the place are skipped. A resume refuses files whose
    names or sizes have changed, and a current file whose first 65,536 bytes have changed.

    Args:
        paths: a file, a folder (with its subfolders), a glob (``**`` included), a URL of fsspec (``s3://bucket/*.parquet``,
            also of a file or a folder), or several of them. Each file counts once. Names in folders and globs that begin
            with a dot are left out. URLs, ``.parquet``, ``.arrow`` and ``.zst`` need the extra ``files``.
        shard: ``(index, count)``: yield the documents whose number, from 0, is ``index`` modulo ``count``. From a
            ``.parquet`` file, yield as many rows as by that rule, but contiguous ones, so that only the row groups with
            some of them are read. Text files of other shards are not read. From a local ``.arrow`` file only the pages
            with our rows and the metadata are read. Lines of other shards are read but not parsed.
        exclude: a shell pattern, or several. A file is left out if a pattern matches its name or that of a folder below the
            path that was given.
        encoding_errors: ``"replace"`` replaces bytes that are not text in the encoding by U+FFFD; ``"strict"`` raises.
        on_error: what to do with a row or a file that can't be read. ``"raise"`` raises. ``"skip"`` skips it, counts it as
            ``"documents skipped"``, and logs a warning for the first ten of each file. A row or a text file counts once. A
            larger damaged part also counts once, no matter how many rows it holds: a record batch of an ``.arrow`` file,
            the rest of a row group of a ``.parquet`` file, the rest of a compressed file, of an arrow stream or of an arrow
            file without its index, or a file of rows. Each shard counts such a part (a row group only if the shard has rows
            in that rest). Rows of other shards are neither read nor counted. It is always an error if a file has changed
            since the checkpoint or can't be opened or read, or if memory runs out.
        text_field: the field, or column, with the text.
        id_field: the field with the name of a document; ``None``: name all by file and row.
        entropies_field: the field with the entropies; ``None``: do not read them.
        columns: further fields. Every row must have them; they are in ``Document.columns``.
        encoding: the encoding of text files and JSON lines, such as ``"utf-16"`` or ``"cp1252"``. With ``"utf-16"`` and
            ``"utf-32"``, each file must begin with a byte order mark. Strings in ``.parquet`` and ``.arrow`` files are
            always UTF-8.

    Raises:
        DocumentError: a path does not exist, or stands for no file that can be read.
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
        encoding: str = UTF8,
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
            encoding=check_encoding(encoding),
            shard=(index, count),
            listing=summarize(files),
        )
        self._resume(state, files)

    def _resume(self, state: DocumentFileState, files: list[SourceFile] | None) -> None:
        self._state = state  # all of it is current, except for the place
        self._place = Place(*(getattr(state, name) for name in Place._fields))
        self._trail = state.trail
        self._files = files

    def get_state(self) -> DocumentFileState:
        """Return the place after the document that was last yielded, or after the last file at the end."""
        return self._state.model_copy(update={**self._place._asdict(), "trail": self._trail})

    def create_iter(self) -> Iterator[Document]:
        """Return an iterator over the documents that were not yielded yet.

        Raises:
            DocumentError: the files have changed; or a file is empty, has no rows, or holds invalid UTF-8, a broken row, or
                a row without ``text``. The message names file and row, and what to do.
            OSError: a file can't be opened or read.
        """
        if self._files is None:
            self._files = self._list_again()
        files, place, trail = self._files, self._place, self._trail
        if place.file > len(files):
            raise DocumentError(
                f"the place is in file {place.file} of {len(files)}: the checkpoint belongs to other files"
            )
        state = self._state
        wanted = Wanted(
            state.text_field,
            state.id_field,
            state.entropies_field,
            state.columns,
            state.encoding_errors,
            state.shard,
            state.encoding,
        )
        while place.file < len(files):
            begin, file, errors = place, files[place.file], 0
            head = begin.head
            for after, document in reader_of(file.name)(file, begin, wanted):
                place, head = after, after.head or head
                if place.file > begin.file:
                    # For a text file, the place after it holds the file's head.
                    place, trail, head = after._replace(head=""), _extended(trail, head), ""
                if isinstance(document, Document):
                    self._place, self._trail = place, trail
                    yield document
                elif document is not None:
                    pass_over(document, state.on_error, errors)
                    errors += 1
            if place.document == begin.document and begin.row == 0 and not errors:
                pass_over(refuse(file, None, "the file is empty: it has no rows"), state.on_error, 0)
        self._place, self._trail = place, trail

    def _list_again(self) -> list[SourceFile]:
        state = self._state
        files = list_files(state.paths, state.exclude)
        if summarize(files) != state.listing:
            raise DocumentError(
                f"the files of {', '.join(state.paths)} are not those of the checkpoint: it had {state.listing}; now "
                f"there are {summarize(files)}. Restore the files, or start without the checkpoint"
            )
        return files


def _extended(trail: str, head: str) -> str:
    """Return the digest of the files read so far, extended by one file; unchanged if that file was not read."""
    return blake2b(f"{trail} {head}".encode(), digest_size=8).hexdigest() if head else trail
