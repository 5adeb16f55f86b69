"""What parquet and arrow files share: tables of which a row is a document."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._document import Document, Wanted, make_document
from asyncprefetch.iterators.text._files import (
    DocumentError,
    SourceFile,
    check_size,
    failure_of,
    name_place,
    not_utf8,
    refuse,
)


class Columns:
    """Makes documents of a file's record batches.

    Args:
        file: the file.
        wanted: what is read of each row.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """

    def __init__(self, file: SourceFile, wanted: Wanted) -> None:
        self.pyarrow = load("pyarrow", "files", f"reading {file.shown}")
        self._file = file
        self._opened: io.BufferedReader | None = None
        self._wanted = wanted

    def open(self, opened: io.BufferedReader, mapped: bool = False) -> Any:
        """The file as one of pyarrow's, to be closed; ``opened`` is what a file that is not local is read through."""
        self._opened = opened
        if not self._file.local:
            return self.pyarrow.PythonFile(opened, "r")
        path = os.fsencode(self._file.path)
        return self.pyarrow.memory_map(path) if mapped else self.pyarrow.OSFile(path)

    def check_size(self) -> None:
        """Look whether the file is still as long as it was. See :func:`check_size`."""
        if self._opened is not None:
            check_size(self._opened, self._file)

    def raise_unless_damage(self, error: Exception, row: int) -> None:
        """Raise an error again, unless it means that the file holds what it must not.

        What kept us from getting at the file, or from keeping it, is no damage: another time it would not be there. Want
        of memory is, if more was asked for than the machine has.

        Args:
            error: what was raised.
            row: where in the file that was, for a note on want of memory.
        """
        # pyarrow makes errors of its own of what the file raised.
        failure = failure_of(self._opened)
        if failure is not None:
            raise failure
        if isinstance(error, self.pyarrow.ArrowMemoryError) and _is_absurd(str(error)):
            return
        if isinstance(error, MemoryError) and not getattr(error, "__notes__", None):
            error.add_note(f"while reading {name_place(self._file.shown, row)}")
        # Of pyarrow's own making are its exceptions, an OSError that is of no subclass and has no number, and what
        # Python says of names that are no UTF-8 and of indices to columns that are not there.
        own = (self.pyarrow.ArrowException, UnicodeDecodeError, IndexError)
        if isinstance(error, MemoryError | self.pyarrow.ArrowCancelled) or not (
            isinstance(error, own) or (type(error) is OSError and error.errno is None)
        ):
            raise error

    def missing(self, names: Sequence[str]) -> DocumentError | None:
        """What is wrong with a table of these columns, if anything."""
        twice = ", ".join(repr(name) for name in dict.fromkeys(self.used(names)) if names.count(name) > 1)
        if twice:
            return refuse(self._file, None, f"there are several columns {twice}")
        missing = ", ".join(repr(name) for name in self._wanted.required if name not in names)
        if not missing:
            return None
        have = ", ".join(map(repr, names)) or "none"
        return refuse(self._file, None, f"the column {missing} is missing; there are {have}")

    def used(self, names: Sequence[str]) -> list[str]:
        """Those columns of a table that are to be read."""
        used = {*self._wanted.required, *self._wanted.optional}
        return [name for name in names if name in used]

    def check(self, batch: Any) -> None:
        """Look whether the columns that are used refer to nothing outside of themselves, as damaged ones may.

        Strings count as bytes: whether they are UTF-8 is looked at row by row.

        Raises:
            pyarrow.ArrowException: they do; to read them would end the process.
        """
        for name in self.used(batch.schema.names):
            column = batch.column(name)
            bytes_ = self._of_bytes(column.type)
            (column if bytes_ == column.type else column.view(bytes_)).validate(full=True)

    def documents(self, batch: Any, rows: range, first: int) -> Iterator[Document | DocumentError]:
        """The documents of some rows of a record batch, of which row 0 has the number ``first`` in the file."""
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
                yield not_utf8(self._file, first + row, error)
            except (
                self.pyarrow.ArrowException,
                ValueError,
                OverflowError,
            ) as error:  # a time that Python has no type for, say
                yield refuse(self._file, first + row, f"the column {name!r} can't be read: {error}")

    def _converter(self, type_: Any, name: str) -> Callable[[Any], Any]:
        """What makes Python values of the scalars of a column."""
        types, wanted = self.pyarrow.types, self._wanted
        if types.is_dictionary(type_):
            inner = self._converter(type_.value_type, name)
            return lambda scalar: inner(scalar.value) if scalar.value.is_valid else None
        if _is_string(types, type_) or (_is_binary(types, type_) and name in (wanted.text_field, wanted.id_field)):
            # pyarrow's own conversion is always strict.
            return lambda scalar: str(scalar.as_buffer(), "utf-8", wanted.encoding_errors)
        if name == wanted.entropies_field and _is_list(types, type_):
            return lambda scalar: scalar.values.to_numpy(zero_copy_only=False)
        return lambda scalar: scalar.as_py()

    def _of_bytes(self, type_: Any) -> Any:
        """A type with bytes in place of strings that lies in memory as this one does."""
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
    """Whether pyarrow's message is about more memory than the machine has: only a damaged length asks for that."""
    if failure == "capacity too large":  # above 2**63, once it is rounded up
        return True
    asked = re.search(r"of size (\d+) failed", failure)
    return asked is not None and int(asked[1]) > _physical_memory()


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this platform
        return 1 << 48  # which no machine has, yet
