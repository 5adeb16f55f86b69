"""The error of a document that can't be read. Every stage of a pipeline may raise it."""

from __future__ import annotations


class DocumentError(ValueError):
    """A document can't be read: a file is missing, has changed, or has invalid contents.

    Attributes:
        file: the file's name in the listing, or the path that was given; empty if the error concerns no single file.
        row: the line of a ``.jsonl`` file, or the row of a table, from 0; ``None`` if the error concerns the whole file.
    """

    def __init__(self, message: str, *, file: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.row = row
