from __future__ import annotations

import base64
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncprefetch import IteratorState
from asyncprefetch.iterators import (
    Document,
    DocumentError,
    HuggingFaceTokenizer,
    PreprocessIterator,
    SpacePatcher,
    StaticPatcher,
    TiktokenTokenizer,
    Tokenizer,
    TokenizerFileError,
)
from asyncprefetch.iterators.text import file_tokenizers
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.inside import counters
from tests.iterators.sources import ListIterator, drain

TEXTS = ["hello hello world", "", "zwölf 🥊", "<s> is text"]


@pytest.fixture(autouse=True)
def nothing_loaded() -> Any:
    yield
    file_tokenizers._load_hugging_face.cache_clear()
    file_tokenizers._load_tiktoken.cache_clear()


def write_hugging_face(path: Path, **more: Any) -> str:
    """Write a tokenizer of words that puts two special tokens around each text."""
    words = ["<unk>", "<s>", "</s>", "hello", "world", "is", "text", *more.pop("words", ())]
    special = [
        {
            "id": i,
            "content": words[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i in range(3)
    ]
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template.append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for i, t in ((1, "<s>"), (2, "</s>"))},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
        **more,
    }
    path.write_text(json.dumps(tokenizer), "utf-8")
    return str(path)


def write_tiktoken(path: Path, merges: tuple[bytes, ...] = (b"he", b"ll", b"hell", b"hello")) -> str:
    tokens = [*(bytes([b]) for b in range(256)), *merges]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return str(path)


@pytest.fixture(params=["tokenizers", "tiktoken"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    pytest.importorskip(request.param)
    if request.param == "tokenizers":
        return HuggingFaceTokenizer(write_hugging_face(tmp_path / "tokenizer.json"))
    return TiktokenTokenizer(write_tiktoken(tmp_path / "small.tiktoken"), eos_id=300)


def test_a_hugging_face_file_makes_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = HuggingFaceTokenizer(write_hugging_face(tmp_path / "t.json"))
    assert isinstance(tokenizer, Tokenizer)
    assert_items_equal(np.array([1, 3, 3, 4, 2], np.uint16), tokenizer.encode("hello hello world"))
    assert tokenizer.decode(np.array([[1, 3], [4, 2]])) == "hello world"
    bare = HuggingFaceTokenizer(tokenizer.path, special_tokens=False, eos_id=70_000)
    assert_items_equal(np.array([4, 0, 70_000], np.uint32), bare.encode("world peace"))


def test_padding_and_truncation_of_the_file_are_not_for_documents(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    more = {
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        },
    }
    tokenizer = HuggingFaceTokenizer(write_hugging_face(tmp_path / "t.json", **more))
    assert tokenizer.encode("hello hello world").tolist() == [1, 3, 3, 4, 2]
    assert tokenizer.encode("").tolist() == [1, 2]


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = [f"w{i}" for i in range(1 << 16)]
    tokenizer = HuggingFaceTokenizer(write_hugging_face(tmp_path / "t.json", words=words))
    assert_items_equal(np.array([1, 7 + 65_535, 2], np.uint32), tokenizer.encode("w65535"))


def test_a_tiktoken_file_makes_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    tokenizer = TiktokenTokenizer(write_tiktoken(tmp_path / "small.tiktoken"))
    assert isinstance(tokenizer, Tokenizer)
    assert_items_equal(np.array([259, 32, 119, 111], np.uint16), tokenizer.encode("hello wo"))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    framed = TiktokenTokenizer(tokenizer.path, bos_id=300, eos_id=301)
    assert framed.encode("a").tolist() == [300, 97, 301]
    assert framed.decode(framed.encode("a")) == "a"


def test_the_pattern_says_where_a_text_is_split(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    path = write_tiktoken(tmp_path / "small.tiktoken")
    assert TiktokenTokenizer(path, pattern=r".").encode("hello").tolist() == list(b"hello")


def test_a_name_is_looked_up_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    given = []

    def get_encoding(name: str) -> Any:
        given.append(name)
        if name != "known":
            raise ValueError("Unknown encoding")
        ranks = {bytes([b]): b for b in range(256)}
        return tiktoken.Encoding("known", pat_str=".", mergeable_ranks=ranks, special_tokens={})

    monkeypatch.setattr(tiktoken, "get_encoding", get_encoding)
    tokenizer = TiktokenTokenizer("known")
    assert (tokenizer.digest, given) == ("name", [])
    assert tokenizer.encode("ab").tolist() == [97, 98]
    with pytest.raises(TokenizerFileError, match="'unknown' is neither a file nor a name that tiktoken knows"):
        TiktokenTokenizer("unknown").encode("")


def test_resumes_exactly_and_its_state_holds_no_vocabulary(made: Any) -> None:
    def make() -> PreprocessIterator:
        return PreprocessIterator(ListIterator(TEXTS), made, StaticPatcher(2))

    assert all(sequence.tokens.dtype == np.uint16 for sequence in drain(make()))
    assert_resumes_exactly(make)
    text = make().get_state().model_dump_json()
    assert len(text) < 1500
    read = IteratorState.model_validate_json(text)
    assert read.tokenizer == made  # type: ignore[attr-defined]


def test_nothing_is_loaded_before_the_first_text(made: Any) -> None:
    PreprocessIterator(ListIterator(TEXTS), made)
    for load in (file_tokenizers._load_hugging_face, file_tokenizers._load_tiktoken):
        assert load.cache_info().currsize == 0
    for _ in range(3):
        made.encode("hello")
    loads = (file_tokenizers._load_hugging_face, file_tokenizers._load_tiktoken)
    assert sum(load.cache_info().misses for load in loads) == 1


def test_a_file_that_changed_since_is_refused(made: Any) -> None:
    state = PreprocessIterator(ListIterator(TEXTS), made).get_state().model_dump_json()
    with open(made.path, "ab") as opened:
        opened.write(b"\n")
    with pytest.raises(TokenizerFileError, match="is not the one that the pipeline was made with: its digest is"):
        drain(IteratorState.model_validate_json(state).build())


def test_a_file_that_is_gone_is_an_error(made: Any) -> None:
    Path(made.path).unlink()
    with pytest.raises(TokenizerFileError, match="can't be read"):
        made.encode("")
    for cls in (HuggingFaceTokenizer, TiktokenTokenizer):
        with pytest.raises(TokenizerFileError, match="can't be read"):
            cls(made.path)


def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("tiktoken")
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(TokenizerFileError, match=r"broken.json' holds no tokenizer"):
        HuggingFaceTokenizer(str(broken)).encode("")
    with pytest.raises(TokenizerFileError, match=r"broken.json', line 1: not a token in base64 and its rank"):
        TiktokenTokenizer(str(broken)).encode("")
    for line in (b"YQ== one", b"!! 5", b"YQ== 1 2"):
        broken.write_bytes(line)
        with pytest.raises(TokenizerFileError, match="line 1"):
            TiktokenTokenizer(str(broken)).encode("")
    write_tiktoken(broken)
    with open(broken, "ab") as opened:
        opened.write(b"aGVsbG9o 259")
    with pytest.raises(TokenizerFileError, match="gives two tokens the same rank"):
        TiktokenTokenizer(str(broken)).encode("")
    broken.write_bytes(b"YQ== 0\n\n")
    with pytest.raises(TokenizerFileError, match="no rank for 255 of the 256 bytes, the first is 0"):
        TiktokenTokenizer(str(broken)).encode("")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("pattern", "line", "why"),
    [
        ("(", b"", r"small.tiktoken' and the pattern '\(' make no valid encoding: .*parenthesis"),
        (".", b"YWE= -5\n", "small.tiktoken', line 261: the rank must be from 0 to 4,294,967,295, not -5"),
        (".", b"YWE= 4294967296\n", "small.tiktoken', line 261: the rank must be"),
    ],
)
def test_a_broken_pattern_or_rank_is_no_error_of_a_document(
    tmp_path: Path, pattern: str, line: bytes, why: str, on_error: Any
) -> None:
    pytest.importorskip("tiktoken")
    path = write_tiktoken(tmp_path / "small.tiktoken")
    with open(path, "ab") as opened:
        opened.write(line)
    tokenizer = TiktokenTokenizer(path, pattern)
    with pytest.raises(TokenizerFileError, match=why):
        drain(PreprocessIterator(ListIterator(TEXTS), tokenizer, on_error=on_error))


@pytest.mark.parametrize(
    ("text", "why"), [("zzz", r"Missing \[?UNK\]? token"), ("a\ud800", "it holds a lone surrogate")]
)
def test_text_that_a_hugging_face_file_can_not_encode_is_an_error_of_the_document(
    tmp_path: Path, text: str, why: str
) -> None:
    pytest.importorskip("tokenizers")
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3}, "unk_token": "none such"}
    tokenizer = HuggingFaceTokenizer(write_hugging_face(tmp_path / "t.json", model=model))
    documents = [Document("d", text, file="x.jsonl", row=7), Document("e", "hello")]
    with pytest.raises(DocumentError, match=rf"document 'd' .*t.json' can't encode the text: .*{why}") as caught:
        drain(PreprocessIterator(ListIterator(documents), tokenizer))
    assert (caught.value.file, caught.value.row) == ("x.jsonl", 7)
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is not None
    counters.drain()
    [kept] = drain(PreprocessIterator(ListIterator(documents), tokenizer, on_error="skip"))
    assert kept.tolist() == [1, 3, 2]  # type: ignore[union-attr]
    assert counters.drain() == {"documents skipped": 1}


def test_what_a_hugging_face_tokenizer_is_wrongly_asked_for_is_no_error_of_the_text(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(TypeError, match="must be str"):
        HuggingFaceTokenizer(write_hugging_face(tmp_path / "t.json")).encode(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"bos_id": -1}, {"eos_id": 1 << 32}, {"bos_id": 1.5}, {"eos_id": "1"}])
def test_refuses_ids_that_no_token_can_have(tmp_path: Path, option: dict[str, Any]) -> None:
    path = write_tiktoken(tmp_path / "small.tiktoken")
    for cls in (HuggingFaceTokenizer, TiktokenTokenizer):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be an integer from 0 to 4,294,967,295"):
            cls(path, **option)


def test_a_library_that_is_not_installed_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiktoken(tmp_path / "small.tiktoken")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for cls, extra in ((HuggingFaceTokenizer, "tokenizers"), (TiktokenTokenizer, "tiktoken")):
        with pytest.raises(ImportError, match=rf"pip install 'asyncprefetch\[{extra}\]'"):
            cls(path).encode("")


def test_space_patches_are_not_for_them(made: Any) -> None:
    with pytest.raises(ValueError, match="makes patches of bytes"):
        PreprocessIterator(ListIterator([]), made, SpacePatcher())
