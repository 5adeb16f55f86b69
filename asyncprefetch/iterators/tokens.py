"""Text -> token arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asyncprefetch import _items, _registry
from asyncprefetch.base import IteratorState, StatefulIterator
from asyncprefetch.iterators.documents import Document


@runtime_checkable
class Tokenizer(Protocol):
    """What turns text into tokens. It travels inside of states: a registered frozen dataclass or pydantic model."""

    def encode(self, text: str) -> npt.NDArray[np.integer]:
        """The tokens of one document, a 1-D array of integers; the same for the same text, always."""

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of ``tokens``, for people to read."""


@_registry.register("asyncprefetch.ByteTokenizer")
@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """Each byte of the UTF-8 text is one token.

    The ids: 0 pads, 1 begins a text, 2 ends it, and byte ``b`` is ``offset + b``. All lie below ``vocabulary_size``.

    Attributes:
        bos: whether each text begins with ``bos_id``.
        eos: whether each text ends with ``eos_id``.
        offset: the id of byte 0, at least 3.

    Raises:
        ValueError: ``offset`` is below 3, so that bytes and special ids would coincide.
    """

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2

    bos: bool = True
    eos: bool = True
    offset: int = 3

    def __post_init__(self) -> None:
        if self.offset < 3:
            raise ValueError(f"offset must be at least 3, the number of special ids, not {self.offset}")

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return self.offset + 256

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """The tokens of ``text``: int64 of shape ``(bytes + bos + eos,)``.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate, which UTF-8 can't.
        """
        data = np.frombuffer(text.encode("utf-8"), np.uint8)
        tokens = np.empty(self.bos + data.size + self.eos, np.int64)
        np.add(data, self.offset, out=tokens[int(self.bos) : self.bos + data.size], dtype=np.int64)
        if self.bos:
            tokens[0] = self.bos_id
        if self.eos:
            tokens[-1] = self.eos_id
        return tokens

    def decode(self, tokens: npt.ArrayLike, errors: str = "replace") -> str:
        """The text of ``tokens``, an array of any shape; special ids are passed over.

        Args:
            tokens: ids below ``vocabulary_size``.
            errors: as in ``bytes.decode``, for bytes that are no UTF-8: a row may begin within a character.

        Raises:
            ValueError: an id is negative or not below ``vocabulary_size``.
        """
        ids = np.asarray(tokens, np.int64).reshape(-1)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocabulary_size:
            raise ValueError(f"ids must lie in [0, {self.vocabulary_size}), not in [{ids.min()}, {ids.max()}]")
        return (ids[ids >= self.offset] - self.offset).astype(np.uint8).tobytes().decode("utf-8", errors)


class PreprocessState(IteratorState, kind="asyncprefetch.preprocess", frozen=True):
    """The state of the documents, and what makes tokens of them."""

    inner: IteratorState
    tokenizer: Tokenizer

    def build(self) -> PreprocessIterator:
        """The iterator over the tokens of the documents that are still to come."""
        iterator = PreprocessIterator.__new__(PreprocessIterator)
        iterator._resume(self)
        return iterator


class PreprocessIterator(StatefulIterator[npt.NDArray[np.integer]]):
    """The tokens of each document: one 1-D array a document, int64 with the :class:`ByteTokenizer`.

    Args:
        documents: yields :class:`Document` or plain ``str``. The object itself is only asked for its state.
        tokenizer: an object of a registered class with ``encode(text)``.

    Raises:
        TypeError: a checkpoint can't hold the tokenizer.
    """

    def __init__(self, documents: StatefulIterator[Document | str], tokenizer: Tokenizer | None = None) -> None:
        tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        unsupported = _items.explain_unsupported(tokenizer)
        if unsupported is not None:
            raise TypeError(f"a checkpoint can't hold the tokenizer: {unsupported}")
        self._resume(PreprocessState(inner=documents.get_state(), tokenizer=tokenizer))

    def _resume(self, state: PreprocessState) -> None:
        self._state = state  # as of the time before self._inner was built
        self._inner: StatefulIterator[Document | str] | None = None

    def get_state(self) -> PreprocessState:
        """The state of the documents: this iterator holds nothing back."""
        if self._inner is None:
            return self._state
        return self._state.model_copy(update={"inner": self._inner.get_state()})

    def create_iter(self) -> Iterator[npt.NDArray[np.integer]]:
        """The tokens of the documents that are still to come.

        Raises:
            TypeError: an item is neither a ``Document`` nor a ``str``.
        """
        if self._inner is None:
            self._inner = self._state.inner.build()
        encode = self._state.tokenizer.encode
        for item in self._inner.create_iter():
            text = item.text if isinstance(item, Document) else item
            if not isinstance(text, str):
                raise TypeError(f"PreprocessIterator takes documents or strings, not {item!r:.80}")
            yield encode(text)
