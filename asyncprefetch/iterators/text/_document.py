"""A document, and how it is made from the fields of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec.registry import register
from asyncprefetch.iterators.text._files import SourceFile, refuse


@register("asyncprefetch.Document")
@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        sample_id: its name in the data, or ``"folder/file.txt"``, or ``"folder/file.jsonl:row"``, rows from 0.
        text: the text, with line ends as they are in the file.
        entropies: a 1-D array of floats, all finite, or ``None``. The dtype is float64 for ``.jsonl`` and for a column of
            integers, and that of the column for a column of floats.
        columns: the requested further columns, as they are in the data.
        file: the name of the file that it was read from; empty: none.
        row: the row in that file, from 0; ``None``: it is the whole file.
    """

    sample_id: str
    text: str
    entropies: npt.NDArray[np.floating] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    row: int | None = None

    def __eq__(self, other: object) -> bool:
        """Return whether the contents are equal, entropies and their dtype included. File and row are not compared."""
        if not isinstance(other, Document):
            return NotImplemented
        same = (self.sample_id, self.text, self.columns) == (other.sample_id, other.text, other.columns)
        if self.entropies is None or other.entropies is None:
            return same and self.entropies is other.entropies
        return (
            same
            and self.entropies.dtype == other.entropies.dtype
            and bool(np.array_equal(self.entropies, other.entropies))
        )

    def __hash__(self) -> int:
        return hash((self.sample_id, self.text))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which fields of a row are read, and which rows belong to this shard. See :class:`DocumentFileIterator`."""

    text_field: str
    id_field: str | None
    entropies_field: str | None
    columns: tuple[str, ...]
    encoding_errors: Literal["strict", "replace"]
    shard: tuple[int, int]
    encoding: str

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that each row must have."""
        return self.text_field, *self.columns

    @property
    def optional(self) -> tuple[str, ...]:
        """The fields that a row may have."""
        return tuple(name for name in (self.id_field, self.entropies_field) if name is not None)


def make_document(fields: Mapping[str, Any], wanted: Wanted, file: SourceFile, row: int) -> Document:
    """Return the document of one row.

    Args:
        fields: the fields of the row by name; those that are not used are ignored.
        wanted: the names of the fields.
        file: the file with the row.
        row: its number in the file, from 0.

    Raises:
        DocumentError: a field is missing or has a wrong type.
    """
    try:
        text = fields[wanted.text_field]
        columns = {name: fields[name] for name in wanted.columns} if wanted.columns else {}
    except KeyError as error:
        have = ", ".join(map(repr, fields)) or "none"
        raise refuse(file, row, f"the field {error} is missing; the row has {have}") from None
    if not isinstance(text, str):
        raise refuse(file, row, f"the field {wanted.text_field!r} must be a string, not {text!r:.40}")
    sample_id = None if wanted.id_field is None else fields.get(wanted.id_field)
    if sample_id is not None and type(sample_id) not in (str, int):
        raise refuse(file, row, f"the field {wanted.id_field!r} must be a string or an integer, not {sample_id!r:.40}")
    entropies = None if wanted.entropies_field is None else fields.get(wanted.entropies_field)
    return Document(
        f"{file.name}:{row}" if sample_id is None else str(sample_id),
        text,
        None if entropies is None else _floats(entropies, wanted.entropies_field, file, row),
        columns,
        file.name,
        row,
    )


def _floats(values: Any, name: str | None, file: SourceFile, row: int) -> npt.NDArray[np.floating]:
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths within the list
        array = np.empty((), object)
    if array.dtype.kind == "f" and array.ndim == 1 and np.isfinite(array).all():
        return array
    if array.dtype.kind in "iu" and array.ndim == 1:
        return array.astype(np.float64)
    raise refuse(file, row, f"the field {name!r} must be a list of finite numbers, not {values!r:.40}")
