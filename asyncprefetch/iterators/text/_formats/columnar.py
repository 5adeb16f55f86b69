"""The common part of parquet and arrow files: tables in which a row is a document."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._document import Document, Wanted, make_document
from asyncprefetch.iterators.text._files import SourceFile, check_size, failure_of, name_place, refuse, undecoded


class Columns:
    """Makes documents from the record batches of a file.

    Args:
        file: the file.
        wanted: which fields of a row are read.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """

    def __init__(self, file: SourceFile, wanted: Wanted) -> None:
        self.pyarrow = load("pyarrow", "files", f"reading {file.shown}")
        self._file = file
        self._opened: io.BufferedReader | None = None
        self._wanted = wanted

    def open(self, opened: io.BufferedReader, mapped: bool = False) -> Any:
        """Return the file as a pyarrow file, to be closed. A remote file is read through ``opened``."""
        self._opened = opened
        if not self._file.local:
            return self.pyarrow.PythonFile(opened, "r")
        path = os.fsencode(self._file.path)
        return self.pyarrow.memory_map(path) if mapped else self.pyarrow.OSFile(path)

    def check_size(self) -> None:
        """Check that the file still has its size, by :func:`check_size`."""
        if self._opened is not None:
            check_size(self._opened, self._file)

    def raise_unless_damage(self, error: Exception, row: int) -> None:
        """Raise an error again, unless it means that the contents of the file are damaged.

        A failure to read the file or to allocate memory is not damage: it may not happen the next time. A request for more
        memory than the machine has is damage.

        Args:
            error: the error that was raised.
            row: the row at which it was raised, for a note on a lack of memory.
        """
        # pyarrow replaces the exception that the file raised by its own.
        failure = failure_of(self._opened)
        if failure is not None:
            raise failure
        if isinstance(error, self.pyarrow.ArrowMemoryError) and _is_absurd(str(error)):
            return
        if isinstance(error, MemoryError) and not getattr(error, "__notes__", None):
            error.add_note(f"while reading {name_place(self._file.shown, row)}")
        # pyarrow's own errors are its exceptions, an OSError of no subclass and without a number, and Python's errors for
        # names that are not UTF-8 and for indices of missing columns.
        own = (self.pyarrow.ArrowException, UnicodeDecodeError, IndexError)
        if isinstance(error, MemoryError | self.pyarrow.ArrowCancelled) or not (
            isinstance(error, own) or (type(error) is OSError and error.errno is None)
        ):
            raise error

    def missing(self, names: Sequence[str]) -> DocumentError | None:
        """Return the error for a table with these columns, or ``None``."""
        twice = ", ".join(repr(name) for name in dict.fromkeys(self.used(names)) if names.count(name) > 1)
        if twice:
            return refuse(self._file, None, f"there are several columns {twice}")
        missing = ", ".join(repr(name) for name in self._wanted.required if name not in names)
        if not missing:
            return None
        have = ", ".join(map(repr, names)) or "none"
        return refuse(self._file, None, f"the column {missing} is missing; the table has {have}")

    def used(self, names: Sequence[str]) -> list[str]:
        """Return the columns of a table that are read."""
        used = {*self._wanted.required, *self._wanted.optional}
        return [name for name in names if name in used]

    def check(self, batch: Any) -> None:
        """Check that the columns that are used have no references outside of their data, as damaged ones may.

        Strings are checked as bytes; whether they are UTF-8 is checked row by row.

        Raises:
            pyarrow.ArrowException: a column has one. Reading it would crash the process.
        """
        for name in self.used(batch.schema.names):
            column = batch.column(name)
            bytes_ = self._of_bytes(column.type)
            (column if bytes_ == column.type else column.view(bytes_)).validate(full=True)

    def documents(self, batch: Any, rows: range, first: int) -> Iterator[Document | DocumentError]:
        """Yield the documents of some rows of a record batch. Its row 0 has the number ``first`` in the file."""
        columns = []
        for name in self.used(batch.schema.names):
            column = batch.column(name)
            columns.append((name, column, self._converter(column.type, name)))
        for row in rows:
            try:
                fields = {}
                for name, column, convert in columns:
                    scalar = column[row]
                    fields[name] = convert(scalar) if scalar.is_valid else None
                yield make_document(fields, self._wanted, self._file, first + row)
            except (MemoryError, self.pyarrow.ArrowCancelled) as error:
                self.raise_unless_damage(error, first + row)
                yield refuse(self._file, first + row, f"the column {name!r} can't be read: {error}")
            except DocumentError as error:
                yield error
            except UnicodeDecodeError as error:
                if name == self._wanted.id_field:
                    yield self._bytes_for_id(first + row, error)
                else:
                    yield undecoded(self._file, first + row, error)
            except (
                self.pyarrow.ArrowException,
                ValueError,
                OverflowError,
            ) as error:  # such as a time that no Python type can hold
                yield refuse(self._file, first + row, f"the column {name!r} can't be read: {error}")

    def _bytes_for_id(self, row: int, error: UnicodeDecodeError) -> DocumentError:
        """Return the error for the name of a document that is not UTF-8: replaced bytes would make names equal."""
        return refuse(
            self._file,
            row,
            f"the column {self._wanted.id_field!r} names the document, but holds bytes that are not UTF-8 ({error}): "
            "choose another column with id_field=, or name the documents by file and row with id_field=None",
        )

    def _converter(self, type_: Any, name: str) -> Callable[[Any], Any]:
        """Return the function that converts scalars of a column to Python values."""
        types, wanted = self.pyarrow.types, self._wanted
        if types.is_dictionary(type_):
            inner = self._converter(type_.value_type, name)
            return lambda scalar: inner(scalar.value) if scalar.value.is_valid else None
        if _is_string(types, type_) or (_is_binary(types, type_) and name in (wanted.text_field, wanted.id_field)):
            # pyarrow's own conversion is always strict.
            return lambda scalar: str(scalar.as_buffer(), "utf-8", wanted.encoding_errors)
        if name == wanted.entropies_field and _is_list(types, type_):
            return lambda scalar: scalar.values.to_numpy(zero_copy_only=False)
        # Python's types hold no nanoseconds. pyarrow would return a type of pandas, or raise an error where it is missing.
        if types.is_timestamp(type_) and type_.unit == "ns":
            return lambda scalar: np.datetime64(scalar.value, "ns")
        if types.is_duration(type_) and type_.unit == "ns":
            return lambda scalar: np.timedelta64(scalar.value, "ns")
        return lambda scalar: scalar.as_py()

    def _of_bytes(self, type_: Any) -> Any:
        """Return a type with bytes in place of strings and the same layout in memory."""
        pyarrow, types = self.pyarrow, self.pyarrow.types
        if types.is_string(type_):
            return pyarrow.binary()
        if types.is_large_string(type_):
            return pyarrow.large_binary()
        if types.is_string_view(type_):
            return pyarrow.binary_view()
        if types.is_dictionary(type_):
            return pyarrow.dictionary(type_.index_type, self._of_bytes(type_.value_type), type_.ordered)
        if types.is_list(type_):
            return pyarrow.list_(self._of_bytes(type_.value_type))
        if types.is_large_list(type_):
            return pyarrow.large_list(self._of_bytes(type_.value_type))
        if types.is_struct(type_):
            fields = [type_.field(i) for i in range(type_.num_fields)]
            return pyarrow.struct([field.with_type(self._of_bytes(field.type)) for field in fields])
        return type_


def _is_string(types: Any, type_: Any) -> bool:
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))


def _is_binary(types: Any, type_: Any) -> bool:
    return bool(types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_))


def _is_list(types: Any, type_: Any) -> bool:
    return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))


def _is_absurd(failure: str) -> bool:
    """Return whether pyarrow asked for more memory than the machine has, which only a damaged length causes."""
    if failure == "capacity too large":  # more than 2**63 after rounding up
        return True
    asked = re.search(r"of size (\d+) failed", failure)
    return asked is not None and int(asked[1]) > _physical_memory()


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        return 1 << 48  # more than any machine has
