"""Documents -> arrays of tokens, or tokens with patch lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncprefetch import _codec
from asyncprefetch.base import StatefulIterator
from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._stage import Stage, StageState, state_of
from asyncprefetch.iterators.text._files import name_place
from asyncprefetch.iterators.text._skipping import OnError, pass_over
from asyncprefetch.iterators.text._tokens import Origin, TokenSequence, check_patch_lengths, describe, is_tokens
from asyncprefetch.iterators.text.documents import Document
from asyncprefetch.iterators.text.file_tokenizers import TokenizerFileError
from asyncprefetch.iterators.text.patchers import Patcher
from asyncprefetch.iterators.text.tokenizers import ByteTokenizer, Tokenizer


class PreprocessState(StageState, kind="asyncprefetch.preprocess", frozen=True):
    """The state of the documents, the tokenizer and the patcher."""

    tokenizer: Tokenizer
    patcher: Patcher | None = None
    on_error: OnError = "raise"

    def build(self) -> PreprocessIterator:
        """Return the iterator over the tokens of the documents that were not yielded yet."""
        return PreprocessIterator._from(self)


class PreprocessIterator(Stage[PreprocessState, npt.NDArray[np.integer] | TokenSequence]):
    """Yields the tokens of each document, one item for each document, even an empty one.

    Without a patcher an item is a 1-D array of integers, uint16 with the :class:`ByteTokenizer`. With a patcher it is a
    :class:`TokenSequence` with the same tokens and the lengths of their patches.

    A patcher may need the document's ``entropies``: 1-D floats, one for each token or, with the :class:`ByteTokenizer`, one
    for each byte of the text. In the latter case, those of bos and eos are set to -inf.

    Args:
        documents: yields :class:`Document` or plain ``str``. Only its state is used; the object itself is not advanced.
        tokenizer: an object of a registered class with ``encode(text)``, by default ``ByteTokenizer()``.
        patcher: an object of a registered class with ``patch_lengths(tokens, entropies)``; ``None``: no patches.
        on_error: what to do with a document that can't be converted to tokens or patches: ``"raise"`` raises
            ``DocumentError``; ``"skip"`` skips it, counts it as ``"documents skipped"``, and logs a warning for the first
            ten. If no document of an endless iterator can be converted, it searches forever.

    Raises:
        TypeError: a checkpoint can't hold the tokenizer or the patcher.
        ValueError: the patcher takes bytes, and the tokenizer does not give bytes, or has a different offset.
    """

    def __init__(
        self,
        documents: StatefulIterator[Document | str],
        tokenizer: Tokenizer | None = None,
        patcher: Patcher | None = None,
        *,
        on_error: OnError = "raise",
    ) -> None:
        tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        for name, part in (("tokenizer", tokenizer), ("patcher", patcher)):
            unsupported = _codec.explain_unsupported(part)
            if unsupported is not None:
                raise TypeError(f"a checkpoint can't hold the {name}: {unsupported}")
        _check_offsets(tokenizer, patcher)
        inner = state_of(documents, "PreprocessIterator's documents")
        self._resume(PreprocessState(inner=inner, tokenizer=tokenizer, patcher=patcher, on_error=on_error))

    def create_iter(self) -> Iterator[npt.NDArray[np.integer] | TokenSequence]:
        """Return an iterator over the tokens of the documents that were not yielded yet.

        Raises:
            DocumentError: the tokenizer or the patcher raised ``ValueError`` for a document: its text can't be encoded, or
                its entropies are missing or have a wrong number. The message names the document, its file and its row.
                Any other exception of a tokenizer or a patcher gets a note with that information.
            RuntimeError: the patcher's lengths do not sum to the number of tokens.
            TypeError: an item is neither a ``Document`` nor a ``str``, or the tokenizer does not give tokens.
        """
        errors = 0
        for item in self._draw():
            made = self._make(self._tokens_or_error, item, errors)
            if isinstance(made, DocumentError):
                errors += 1
            else:
                yield made

    def _tokens_or_error(
        self, item: Document | str, before: int
    ) -> npt.NDArray[np.integer] | TokenSequence | DocumentError:
        """Return the tokens of a document, or the error if the document is skipped."""
        state = self._state
        try:
            return _tokens_of(item, state.tokenizer, state.patcher)
        except DocumentError as error:
            pass_over(error, state.on_error, before)
            return error


def _tokens_of(
    item: Document | str, tokenizer: Tokenizer, patcher: Patcher | None
) -> npt.NDArray[np.integer] | TokenSequence:
    text = item.text if isinstance(item, Document) else item
    if not isinstance(text, str):
        raise TypeError(f"PreprocessIterator takes documents or strings, not {item!r:.80}")
    try:
        tokens = tokenizer.encode(text)
        if not is_tokens(tokens):
            raise TypeError(f"the tokenizer must give a 1-D array of integers, not {describe(tokens)}")
        return tokens if patcher is None else _patch(tokens, item, tokenizer, patcher)
    except TokenizerFileError:
        raise  # not caused by a document
    except ValueError as error:
        origin = _origin(item)
        raise DocumentError(f"{_name(item)}: {error}", file=origin.file, row=origin.row) from error
    except Exception as error:
        error.add_note(f"while making tokens of {_name(item)}")
        raise


def _patch(
    tokens: npt.NDArray[np.integer], item: Document | str, tokenizer: Tokenizer, patcher: Patcher
) -> TokenSequence:
    entropies: npt.NDArray[Any] | None = None
    if isinstance(item, Document) and item.entropies is not None:
        entropies = _one_a_token(item.entropies, tokens.size, tokenizer)
    lengths = patcher.patch_lengths(tokens, entropies)
    try:
        check_patch_lengths(lengths, tokens.size)
    except ValueError as error:
        raise RuntimeError(f"the patcher {patcher!r:.80} is wrong: {error}") from error  # not caused by the document
    return TokenSequence(tokens, lengths, *_origin(item))


def _one_a_token(given: npt.NDArray[Any], n: int, tokenizer: Tokenizer) -> npt.NDArray[Any]:
    if not isinstance(given, np.ndarray) or given.ndim != 1 or given.dtype.kind != "f":
        raise ValueError(f"entropies must be a 1-D array of floats, not {describe(given)}")
    if given.size == n:
        return given
    expected = f"{n}, one for each token"
    if isinstance(tokenizer, ByteTokenizer):
        before, after = int(tokenizer.bos), int(tokenizer.eos)
        if given.size == n - before - after:
            return np.pad(given, (before, after), constant_values=-np.inf)
        expected = f"{expected}, or {n - before - after}, one for each byte of the text"
    raise ValueError(f"there are {given.size} entropies; there must be {expected}")


def _check_offsets(tokenizer: Tokenizer, patcher: Patcher | None) -> None:
    wanted, given = getattr(patcher, "offset", None), getattr(tokenizer, "offset", None)
    if wanted is None or wanted == given:
        return
    if given is None:
        raise ValueError(f"{patcher!r} makes patches of bytes, but the tokens of {tokenizer!r:.80} are not bytes")
    raise ValueError(
        f"{patcher!r} expects byte 0 at {wanted}, but {tokenizer!r} has it at {given}: give both the same offset"
    )


def _origin(item: Document | str) -> Origin:
    return Origin(item.file, item.row) if isinstance(item, Document) else Origin()


def _name(item: Document | str) -> str:
    if not isinstance(item, Document):
        return f"the text {item!r:.60}"
    place = f" ({name_place(item.file, item.row)})" if item.file else ""
    return f"document {item.sample_id!r}{place}"
