"""Tokenizers of other libraries, loaded from a file. A checkpoint holds the path and the digest, not the file's contents."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec import registry
from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text.tokenizers import smallest_dtype

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class TokenizerFileError(ValueError):
    """The file of a tokenizer is missing, broken, or not that of the checkpoint; or the pattern is invalid."""


@registry.register("asyncprefetch.HuggingFaceTokenizer")
@dataclass(frozen=True, slots=True)
class HuggingFaceTokenizer:
    """The tokenizer in a ``tokenizer.json`` of Hugging Face's ``tokenizers``, which the extra ``[tokenizers]`` installs.

    Attributes:
        path: the file. The worker reads it when it encodes the first text.
        special_tokens: whether the template in the file adds special tokens to each text.
        bos_id: an id to put before each text, or ``None``.
        eos_id: an id to put after each text, or ``None``.
        digest: the digest of the file, taken when the tokenizer is made. A file with another digest is refused later.

    Raises:
        TokenizerFileError: the file can't be read.
        ValueError: ``bos_id`` or ``eos_id`` is not an integer from 0 to 4,294,967,295.
    """

    path: str
    special_tokens: bool = True
    bos_id: int | None = None
    eos_id: int | None = None
    digest: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _freeze_file(self)

    def encode(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """Return the tokens of ``text``: uint16, or uint32 if ids do not fit.

        Raises:
            ImportError: the library is not installed.
            TokenizerFileError: the file is missing, broken, or has another digest.
            ValueError: the text can't be encoded: it holds a lone surrogate, or something that has no token.
        """
        tokenizer, size = _load_hugging_face(self.path, self.digest)
        try:
            ids = tokenizer.encode(text, add_special_tokens=self.special_tokens).ids
        except Exception as error:
            # The library has no exception class: its models raise a bare Exception about the text. For a lone surrogate, it
            # says that the text is not a string.
            has_lone_surrogate = _has_lone_surrogate(text)
            if type(error) is not Exception and not has_lone_surrogate:
                raise
            reason = "it holds a lone surrogate" if has_lone_surrogate else error
            raise ValueError(f"{self.path!r} can't encode the text: {reason}") from error
        return _framed(ids, self.bos_id, self.eos_id, size)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """Return the text of ``tokens``, an array of any shape, without special tokens. Errors as in :meth:`encode`."""
        tokenizer, _ = _load_hugging_face(self.path, self.digest)
        return str(tokenizer.decode(np.asarray(tokens).reshape(-1).tolist(), skip_special_tokens=True))


@registry.register("asyncprefetch.TiktokenTokenizer")
@dataclass(frozen=True, slots=True)
class TiktokenTokenizer:
    """The byte pair encoding in a ``.tiktoken`` file, or a named encoding of OpenAI's ``tiktoken``.

    The extra ``[tiktoken]`` installs the library. Text that looks like a special token is encoded as ordinary text.

    Attributes:
        path: the file, with a base64 token and its rank on each line; or a name like ``"cl100k_base"``, whose file the
            library downloads, keeps and checks. If a file with that name exists, it is used.
        pattern: the regular expression that splits a text before merging, by default GPT-2's. It is used with a file only.
            It must match all of every text: text between two matches gets no tokens.
        bos_id: an id to put before each text, or ``None``.
        eos_id: an id to put after each text, or ``None``.
        digest: the digest of the file, taken when the tokenizer is made, or ``"name"``. A file with another digest is
            refused later.

    Raises:
        TokenizerFileError: ``path`` looks like a file, but can't be read.
        ValueError: ``bos_id`` or ``eos_id`` is not an integer from 0 to 4,294,967,295.
    """

    path: str
    pattern: str = GPT2_PATTERN
    bos_id: int | None = None
    eos_id: int | None = None
    digest: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        path = os.fspath(self.path)
        is_name = path == Path(path).name and not Path(path).suffix and not os.path.isfile(path)
        if is_name and not self.digest:
            object.__setattr__(self, "digest", "name")
        _freeze_file(self)

    def encode(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """Return the tokens of ``text``: uint16, or uint32 if ids do not fit.

        Raises:
            ImportError: the library is not installed.
            TokenizerFileError: the file is missing, broken, or has another digest; the name is unknown; or the
                pattern is invalid.
        """
        encoding = _load_tiktoken(self.path, self.pattern, self.digest)
        return _framed(encoding.encode_ordinary(text), self.bos_id, self.eos_id, encoding.n_vocab)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """Return the text of ``tokens``, an array of any shape, without ``bos_id`` and ``eos_id``.

        Raises:
            KeyError: an id is not in the encoding. Other errors as in :meth:`encode`.
        """
        encoding = _load_tiktoken(self.path, self.pattern, self.digest)
        ids = np.asarray(tokens).reshape(-1).tolist()
        return str(encoding.decode([id_ for id_ in ids if id_ not in (self.bos_id, self.eos_id)]))


def _has_lone_surrogate(text: object) -> bool:
    return isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text)


def _freeze_file(tokenizer: HuggingFaceTokenizer | TiktokenTokenizer) -> None:
    """Convert the path to a string, and compute the file's digest if it is not given."""
    object.__setattr__(tokenizer, "path", os.fspath(tokenizer.path))
    for name in ("bos_id", "eos_id"):
        id_ = getattr(tokenizer, name)
        if id_ is not None and not (isinstance(id_, int | np.integer) and 0 <= id_ < 1 << 32):
            raise ValueError(f"{name} must be an integer from 0 to 4,294,967,295, not {id_!r}")
    if not tokenizer.digest:
        object.__setattr__(tokenizer, "digest", _digest(_read(tokenizer.path)))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TokenizerFileError(f"the tokenizer {path!r} can't be read: {error}") from error


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _read_checked(path: str, digest: str) -> bytes:
    data = _read(path)
    if _digest(data) != digest:
        raise TokenizerFileError(
            f"the tokenizer {path!r} is not the one that the pipeline was made with: its digest is {_digest(data)}, not "
            f"{digest}. Restore that file, or start without the checkpoint"
        )
    return data


# Loaded once for each process and kept here, not in the tokenizer, which is data and crosses to workers.
@lru_cache(maxsize=8)
def _load_hugging_face(path: str, digest: str) -> tuple[Any, int]:
    library = load("tokenizers", "tokenizers", "this tokenizer")
    data = _read_checked(path, digest)
    try:
        tokenizer = library.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises any exception for a broken file
        raise TokenizerFileError(f"{path!r} holds no tokenizer: {error}") from error
    # The file may configure rows of equal length; documents are packed later.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1


@lru_cache(maxsize=8)
def _load_tiktoken(path: str, pattern: str, digest: str) -> Any:
    library = load("tiktoken", "tiktoken", "this tokenizer")
    if digest == "name":
        try:
            return library.get_encoding(path)
        except ValueError as error:
            raise TokenizerFileError(f"{path!r} is neither a file nor a name that tiktoken knows: {error}") from error
    ranks = _ranks(_read_checked(path, digest), path)
    try:
        return library.Encoding(Path(path).name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except Exception as error:  # the library raises any exception for an invalid pattern
        raise TokenizerFileError(f"{path!r} and the pattern {pattern!r} make no valid encoding: {error}") from error


def _ranks(data: bytes, path: str) -> Mapping[bytes, int]:
    ranks = {}
    for number, line in enumerate(data.splitlines()):
        if line:
            try:
                token, digits = line.split()
                rank = ranks[base64.b64decode(token, validate=True)] = int(digits)
            except (ValueError, binascii.Error) as error:
                raise TokenizerFileError(f"{path!r}, line {number + 1}: not a token in base64 and its rank") from error
            if not 0 <= rank < 1 << 32:
                raise TokenizerFileError(
                    f"{path!r}, line {number + 1}: the rank must be from 0 to 4,294,967,295, not {rank}"
                )
    if len(set(ranks.values())) < len(ranks):
        raise TokenizerFileError(f"{path!r} gives two tokens the same rank")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise TokenizerFileError(f"{path!r} has no rank for {len(missing)} of the 256 bytes, the first is {missing[0]}")
    return ranks


def _framed(ids: list[int], bos: int | None, eos: int | None, size: int) -> npt.NDArray[np.unsignedinteger]:
    dtype = smallest_dtype(max(size, (bos or 0) + 1, (eos or 0) + 1))
    before, after = ([] if bos is None else [bos]), ([] if eos is None else [eos])
    return np.array([*before, *ids, *after], dtype)
