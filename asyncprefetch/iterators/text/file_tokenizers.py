"""Tokenizers that other libraries make from a file. A checkpoint holds the file's path and digest, not what is in it."""

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
    """The file of a tokenizer is missing, broken, or another one than that of the checkpoint; or its pattern is broken."""


@registry.register("asyncprefetch.HuggingFaceTokenizer")
@dataclass(frozen=True, slots=True)
class HuggingFaceTokenizer:
    """The tokenizer in a ``tokenizer.json`` of Hugging Face's ``tokenizers``, which the extra ``[tokenizers]`` installs.

    Attributes:
        path: the file. It is read when the first text is encoded, in the worker, and must be there then.
        special_tokens: whether the file's own template adds its special tokens to each text.
        bos_id: an id to put before each text, or ``None``.
        eos_id: an id to put behind each text, or ``None``.
        digest: of the file's bytes. Taken when the tokenizer is made; a file of another one is refused later.

    Raises:
        TokenizerFileError: the file can't be read.
        ValueError: ``bos_id`` or ``eos_id`` is no integer from 0 to 4,294,967,295.
    """

    path: str
    special_tokens: bool = True
    bos_id: int | None = None
    eos_id: int | None = None
    digest: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _freeze_file(self)

    def encode(self, text: str) -> npt.NDArray[np.unsignedinteger]:
        """The tokens of ``text``: uint16, or uint32 if ids do not fit.

        Raises:
            ImportError: the library is not installed.
            TokenizerFileError: the file is missing, broken, or has another digest.
            ValueError: the text can't be encoded: it holds a lone surrogate, or what the file has no token for.
        """
        tokenizer, size = _load_hugging_face(self.path, self.digest)
        try:
            ids = tokenizer.encode(text, add_special_tokens=self.special_tokens).ids
        except Exception as error:
            # The library has no errors of its own: bare ones are its models', about the text. For a lone surrogate it
            # says that the text is no string.
            has_lone_surrogate = _has_lone_surrogate(text)
            if type(error) is not Exception and not has_lone_surrogate:
                raise
            reason = "it holds a lone surrogate" if has_lone_surrogate else error
            raise ValueError(f"{self.path!r} can't encode the text: {reason}") from error
        return _framed(ids, self.bos_id, self.eos_id, size)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of ``tokens``, an array of any shape, without special tokens. Raises as :meth:`encode`."""
        tokenizer, _ = _load_hugging_face(self.path, self.digest)
        return str(tokenizer.decode(np.asarray(tokens).reshape(-1).tolist(), skip_special_tokens=True))


@registry.register("asyncprefetch.TiktokenTokenizer")
@dataclass(frozen=True, slots=True)
class TiktokenTokenizer:
    """The byte pair encoding in a ``.tiktoken`` file, or one that OpenAI's ``tiktoken`` knows by name.

    The extra ``[tiktoken]`` installs the library. Text that looks like a special token is encoded as ordinary text.

    Attributes:
        path: the file, of lines of a token in base64 and its rank; or a name like ``"cl100k_base"``, whose file the
            library itself downloads, keeps and checks. What exists as a file is a file.
        pattern: the regular expression that splits a text before merging, by default GPT-2's; of a file only.
            It must match all of any text: what lies between two matches has no tokens.
        bos_id: an id to put before each text, or ``None``.
        eos_id: an id to put behind each text, or ``None``.
        digest: of the file's bytes, or ``"name"``. Taken when the tokenizer is made; a file of another one is refused
            later.

    Raises:
        TokenizerFileError: ``path`` looks like a file, and can't be read.
        ValueError: ``bos_id`` or ``eos_id`` is no integer from 0 to 4,294,967,295.
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
        """The tokens of ``text``: uint16, or uint32 if ids do not fit.

        Raises:
            ImportError: the library is not installed.
            TokenizerFileError: the file is missing, broken, or has another digest; nothing has that name; or the pattern
                is none.
        """
        encoding = _load_tiktoken(self.path, self.pattern, self.digest)
        return _framed(encoding.encode_ordinary(text), self.bos_id, self.eos_id, encoding.n_vocab)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text of ``tokens``, an array of any shape; ``bos_id`` and ``eos_id`` are passed over.

        Raises:
            KeyError: an id is none of the encoding's. Else as :meth:`encode`.
        """
        encoding = _load_tiktoken(self.path, self.pattern, self.digest)
        ids = np.asarray(tokens).reshape(-1).tolist()
        return str(encoding.decode([id_ for id_ in ids if id_ not in (self.bos_id, self.eos_id)]))


def _has_lone_surrogate(text: object) -> bool:
    return isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text)


def _freeze_file(tokenizer: HuggingFaceTokenizer | TiktokenTokenizer) -> None:
    """Make a string of the path, and take the file's digest if it is not given."""
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
            f"{digest}. Bring that file back, or start anew without the checkpoint"
        )
    return data


# What was loaded is kept here, one a process, and not by the tokenizer, which is data and crosses to workers.
@lru_cache(maxsize=8)
def _load_hugging_face(path: str, digest: str) -> tuple[Any, int]:
    library = load("tokenizers", "tokenizers", "this tokenizer")
    data = _read_checked(path, digest)
    try:
        tokenizer = library.Tokenizer.from_buffer(data)
    except Exception as error:  # whatever the library makes of a broken file
        raise TokenizerFileError(f"{path!r} holds no tokenizer: {error}") from error
    # The file may ask for rows of one length; documents are packed later.
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
            raise TokenizerFileError(f"{path!r} is no file, and no name that tiktoken knows: {error}") from error
    ranks = _ranks(_read_checked(path, digest), path)
    try:
        return library.Encoding(Path(path).name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except Exception as error:  # whatever the library makes of a broken pattern
        raise TokenizerFileError(f"no encoding can be made of {path!r} and the pattern {pattern!r}: {error}") from error


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
        raise TokenizerFileError(f"{path!r} gives one rank to two tokens")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise TokenizerFileError(f"{path!r} has no rank for {len(missing)} of the 256 bytes, the first is {missing[0]}")
    return ranks


def _framed(ids: list[int], bos: int | None, eos: int | None, size: int) -> npt.NDArray[np.unsignedinteger]:
    dtype = smallest_dtype(max(size, (bos or 0) + 1, (eos or 0) + 1))
    before, behind = ([] if bos is None else [bos]), ([] if eos is None else [eos])
    return np.array([*before, *ids, *behind], dtype)
