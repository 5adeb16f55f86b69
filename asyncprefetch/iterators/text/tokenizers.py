"""Text -> token arrays."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec import registry

MAX_OFFSET = 2**31 - 256


@runtime_checkable
class Tokenizer(Protocol):
    """Converts text to tokens. States hold it, so it must be a registered frozen dataclass or pydantic model."""

    def encode(self, text: str) -> npt.NDArray[np.integer]:
        """Return the tokens of one document, a 1-D array of integers. The same text always gives the same tokens."""

    def decode(self, tokens: npt.ArrayLike) -> str:
        """Return the text of ``tokens``, for display."""


@registry.register("asyncprefetch.ByteTokenizer")
@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """Each byte of the UTF-8 text is one token.

    Id 0 is padding, 1 begins a text, 2 ends it, and byte ``b`` is ``offset + b``. All ids are below ``vocabulary_size``.

    Attributes:
        bos: whether each text begins with ``bos_id``.
        eos: whether each text ends with ``eos_id``.
        offset: the id of byte 0, from 3 to 2,147,483,392.

    Raises:
        TypeError: ``offset`` is not an integer.
        ValueError: ``offset`` is below 3, where bytes and special ids would coincide, or too large.
    """

    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2

    bos: bool = True
    eos: bool = True
    offset: int = 3

    def __post_init__(self) -> None:
        operator.index(self.offset)
        if self.offset < 3:
            raise ValueError(f"offset must be at least 3, the number of special ids, not {self.offset}")
        if self.offset > MAX_OFFSET:
            raise ValueError(f"offset must be at most {MAX_OFFSET}, not {self.offset}")

    @property
    def vocabulary_size(self) -> int:
        """The largest id plus one."""
        return self.offset + 256

    def encode(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """Return the tokens of ``text``, of shape ``(bytes + bos + eos,)``.

        The dtype is uint16, or uint32 if ``vocabulary_size`` is above 65,536. Convert to a wider one for arithmetic.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate, which UTF-8 can't encode.
        """
        data = np.frombuffer(text.encode("utf-8"), np.uint8)
        tokens = np.empty(self.bos + data.size + self.eos, smallest_dtype(self.vocabulary_size))
        np.add(data, self.offset, out=tokens[int(self.bos) : self.bos + data.size], dtype=tokens.dtype)
        if self.bos:
            tokens[0] = self.bos_id
        if self.eos:
            tokens[-1] = self.eos_id
        return tokens

    def decode(self, tokens: npt.ArrayLike, errors: str = "replace") -> str:
        """Return the text of ``tokens``, an array of any shape, without special ids.

        Args:
            tokens: ids below ``vocabulary_size``.
            errors: what ``bytes.decode`` does with bytes that are not UTF-8: a row may begin within a character.

        Raises:
            ValueError: an id is negative or not below ``vocabulary_size``.
        """
        ids = np.asarray(tokens, np.int64).reshape(-1)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.vocabulary_size:
            raise ValueError(f"ids must lie in [0, {self.vocabulary_size}), not in [{ids.min()}, {ids.max()}]")
        return (ids[ids >= self.offset] - self.offset).astype(np.uint8).tobytes().decode("utf-8", errors)


def smallest_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the dtype for tokens below ``vocabulary_size``: uint16, or uint32 if that is too small."""
    return np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
