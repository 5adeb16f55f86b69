"""How tokens are grouped into patches. A patch is a group of consecutive tokens that a model processes in one step."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec import registry

Lengths = npt.NDArray[np.integer]


@runtime_checkable
class Patcher(Protocol):
    """Groups tokens into patches. States hold it, so it must be a registered frozen dataclass or pydantic model.

    A patcher with the attribute ``offset`` takes byte tokens, from a tokenizer with the same ``offset`` only.
    """

    def patch_lengths(self, tokens: npt.NDArray[Any], entropies: npt.NDArray[Any] | None = None) -> Lengths:
        """Return the lengths of the patches of one document, in order.

        Args:
            tokens: integers of shape ``(n,)``.
            entropies: floats of shape ``(n,)``, or ``None`` if the document has none.

        Returns:
            Integers from 1, of shape ``(patches,)``, that sum to ``n``. There are no patches if ``n`` is 0.
        """


@registry.register("asyncprefetch.BytePatcher")
@dataclass(frozen=True, slots=True)
class BytePatcher:
    """Each token is a patch."""

    def patch_lengths(self, tokens: npt.NDArray[Any], entropies: npt.NDArray[Any] | None = None) -> Lengths:
        """Return a 1 for each token: int64 of shape ``(n,)``."""
        return np.ones(tokens.size, np.int64)


@registry.register("asyncprefetch.StaticPatcher")
@dataclass(frozen=True, slots=True)
class StaticPatcher:
    """Each patch has ``length`` tokens; the last one of a document may be shorter.

    Attributes:
        length: tokens in a patch, from 1, below 2**63.

    Raises:
        TypeError: ``length`` is not an integer.
        ValueError: ``length`` is out of range.
    """

    length: int

    def __post_init__(self) -> None:
        operator.index(self.length)
        if self.length < 1:
            raise ValueError(f"length must be at least 1, not {self.length}")
        if self.length >= 1 << 63:
            raise ValueError(f"length must be below 2**63, not {self.length}")

    def patch_lengths(self, tokens: npt.NDArray[Any], entropies: npt.NDArray[Any] | None = None) -> Lengths:
        """Return ``length`` for each patch, and the rest for the last: int64 of shape ``(ceil(n / length),)``."""
        lengths = np.full(-(-tokens.size // self.length), self.length, np.int64)
        if tokens.size % self.length:
            lengths[-1] = tokens.size % self.length
        return lengths


@registry.register("asyncprefetch.SpacePatcher")
@dataclass(frozen=True, slots=True)
class SpacePatcher:
    """A patch ends after a space-like byte that follows one which is not, so that a word and its space are one patch.

    A byte is space-like unless it is one of ``0-9``, ``A-Z`` and ``a-z``, or continues a character of UTF-8 (0x80 to
    0xBF). So the first byte of a character beyond ASCII is space-like: it ends a patch, and in a script without spaces a
    patch has the length of a character. If there are several space-like bytes in a row, the first ends a patch, and the
    others begin the next one: ``"if  x == 1"`` becomes ``"if "``, ``" x "``, ``"== 1"``.

    An id below ``offset`` (bos, eos) always ends a patch, and counts as space-like. The last token of a document ends a
    patch too. With bos, this is the space patching of the Byte Latent Transformer.

    Attributes:
        offset: the id of byte 0, as in the :class:`ByteTokenizer`.
    """

    offset: int = 3

    def patch_lengths(self, tokens: npt.NDArray[Any], entropies: npt.NDArray[Any] | None = None) -> Lengths:
        """Return the lengths: int64 of shape ``(patches,)``. Ids must be below ``offset + 256``."""
        if not tokens.size:
            return np.zeros(0, np.int64)
        # Comparing whole arrays of bytes is several times faster than looking each id up in a table.
        data = tokens.astype(np.uint8)
        data -= np.uint8(self.offset & 0xFF)
        inner = data.view(np.int8) < -64  # 0x80 to 0xBF
        inner |= (data - np.uint8(ord("0"))) < 10
        data |= np.uint8(0x20)
        data -= np.uint8(ord("a"))
        inner |= data < 26
        ends = tokens < self.offset
        if self.offset > 0x40:  # otherwise these ids have wrapped around to bytes from 0xC0 on
            inner &= ~ends
        ends[1:] |= inner[:-1] > inner[1:]
        ends[-1] = True
        return _lengths(ends)


@registry.register("asyncprefetch.EntropyPatcher")
@dataclass(frozen=True, slots=True)
class EntropyPatcher:
    """A patch begins at each token that was hard to predict: whose entropy is above a threshold.

    The entropies come with the document, one for each token. They are compared as float64. The first token always begins a
    patch.

    Attributes:
        threshold: the threshold, in the unit of the entropies.
        monotonicity: a patch begins where the entropy is more than ``threshold`` above that of the token before,
            instead of where it is above ``threshold``. After an entropy of -inf, which :class:`PreprocessIterator` fills in
            for bos and eos, every token begins a patch.
        of_next: ``entropies[i]`` is the uncertainty of token ``i + 1``, as in a language model's output at ``i`` and in the
            data files of the Byte Latent Transformer. Otherwise it is that of token ``i``.

    Raises:
        ValueError: ``threshold`` is not a finite number.
    """

    threshold: float
    monotonicity: bool = False
    of_next: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, not {self.threshold!r}")

    def patch_lengths(self, tokens: npt.NDArray[Any], entropies: npt.NDArray[Any] | None = None) -> Lengths:
        """Return the lengths: int64 of shape ``(patches,)``.

        Raises:
            ValueError: there are no entropies, not as many as tokens, or one of them is NaN.
        """
        if entropies is None:
            raise ValueError("entropy patches need entropies, and the document has none")
        if entropies.shape != tokens.shape or entropies.dtype.kind != "f":
            raise ValueError(
                f"there must be one entropy for each token, floats of shape {tokens.shape}, not {entropies.dtype} of shape "
                f"{entropies.shape}"
            )
        if np.isnan(entropies).any():
            raise ValueError(f"entropy {int(np.isnan(entropies).argmax())} is not a number")
        if not tokens.size:
            return np.zeros(0, np.int64)
        with np.errstate(over="ignore"):  # from a wider dtype
            entropies = entropies.astype(np.float64, copy=False)
        if self.of_next:
            entropies = np.concatenate((np.full(1, -np.inf), entropies[:-1]))
        begins = np.empty(tokens.size + 1, np.bool_)
        begins[-1] = True  # where the next patch would begin
        if self.monotonicity:
            with np.errstate(invalid="ignore", over="ignore"):  # from -inf to -inf is not a rise
                np.greater(entropies[1:] - entropies[:-1], self.threshold, out=begins[1:-1])
        else:
            np.greater(entropies, self.threshold, out=begins[:-1])
        return _lengths(begins[1:])


def _lengths(ends: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the lengths of patches; ``ends`` says for each token whether it is the last of a patch. The last token is."""
    (last,) = ends.nonzero()
    lengths = np.empty(last.size, np.int64)
    lengths[0] = last[0] + 1
    np.subtract(last[1:], last[:-1], out=lengths[1:])
    return lengths
