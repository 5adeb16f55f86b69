from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import (
    BytePatcher,
    ByteTokenizer,
    Document,
    DocumentError,
    DocumentFileIterator,
    EntropyPatcher,
    PreprocessIterator,
    SpacePatcher,
    StaticPatcher,
    TokenSequence,
)
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.inside import counters
from tests.iterators.sources import ListIterator, drain

TEXTS = ["", "abc", "zwölf Boxkämpfer 🥊", "\x00\x7f\r\n"]


@register("tests.tokens.Words")
@dataclass(frozen=True)
class Words:
    scale: int

    def encode(self, text: str) -> Any:
        return np.array([len(word) * self.scale for word in text.split()], np.int32)

    def decode(self, tokens: Any) -> str:
        return str(tokens)


@dataclass(frozen=True)
class Unregistered:
    def encode(self, text: str) -> Any:
        return np.zeros(0, np.int64)

    def decode(self, tokens: Any) -> str:
        return ""


def test_gives_one_array_a_document_or_string() -> None:
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    expected = [ByteTokenizer().encode(text) for text in TEXTS]
    assert_items_equal(expected, drain(PreprocessIterator(ListIterator(documents))))
    assert_items_equal(expected, drain(PreprocessIterator(ListIterator(TEXTS))))


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.text(max_size=5), max_size=4))
def test_resumes_exactly(texts: list[str]) -> None:
    assert_resumes_exactly(
        lambda: PreprocessIterator(ListIterator(texts), tokenizer=ByteTokenizer(eos=False, offset=9))
    )


def test_takes_any_registered_tokenizer() -> None:
    iterator = PreprocessIterator(ListIterator(["one two", "three"]), Words(2))
    assert_items_equal([np.array([6, 6], np.int32), np.array([10], np.int32)], drain(iterator))
    assert_resumes_exactly(lambda: PreprocessIterator(ListIterator(["one two", "three"]), Words(2)))


def test_refuses_a_tokenizer_that_a_checkpoint_can_not_hold() -> None:
    with pytest.raises(TypeError, match=r"Unregistered is not registered.*register\('your.tag'\)"):
        PreprocessIterator(ListIterator([]), Unregistered())


def test_refuses_what_does_not_encode() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        PreprocessIterator(ListIterator([]), "bytes")  # type: ignore[arg-type]


def test_refuses_items_that_are_no_text() -> None:
    with pytest.raises(TypeError, match="takes documents or strings, not b'x'"):
        drain(PreprocessIterator(ListIterator([b"x"])))


def test_the_tokenizer_is_configuration_and_survives_json() -> None:
    state = PreprocessIterator(ListIterator(TEXTS), ByteTokenizer(bos=False)).get_state()
    assert IteratorState.model_validate_json(state.model_dump_json()) == state
    other = PreprocessIterator(ListIterator(TEXTS), ByteTokenizer()).get_state()
    assert [line.partition(":")[0] for line in compare_configuration(state, other, "it")] == ["it.tokenizer.bos"]


@register("tests.tokens.Odd")
@dataclass(frozen=True)
class Odd:
    """A tokenizer and a patcher with one fault each."""

    fault: str

    def encode(self, text: str) -> Any:
        if self.fault == "raises":
            raise KeyError(text)
        return {"list": [1, 2], "floats": np.zeros(2), "table": np.zeros((1, 1), int)}[self.fault]

    def decode(self, tokens: Any) -> str:
        return ""

    def patch_lengths(self, tokens: Any, entropies: Any = None) -> Any:
        if self.fault == "raises":
            raise KeyError(tokens.size)
        return {"short": np.array([1]), "none": None, "zero": np.array([tokens.size, 0])}[self.fault]


@dataclass(frozen=True)
class UnregisteredPatcher:
    def patch_lengths(self, tokens: Any, entropies: Any = None) -> Any:
        return np.ones(tokens.size, int)


@pytest.mark.parametrize("patcher", [BytePatcher(), StaticPatcher(3), SpacePatcher()])
def test_with_a_patcher_gives_sequences(patcher: Any) -> None:
    tokens = [ByteTokenizer().encode(text) for text in TEXTS]
    expected = [TokenSequence(t, patcher.patch_lengths(t)) for t in tokens]
    assert_items_equal(expected, drain(PreprocessIterator(ListIterator(TEXTS), patcher=patcher)))
    assert_resumes_exactly(lambda: PreprocessIterator(ListIterator(TEXTS), patcher=patcher))


def entropic(n: int, text: str = "ab", **options: Any) -> PreprocessIterator:
    documents = [Document("good", "x", np.zeros(3)), Document("corpus/a.jsonl:7", text, np.arange(n) * 1.0)]
    return PreprocessIterator(ListIterator(documents), patcher=EntropyPatcher(0.5), **options)


def test_entropies_are_one_a_token_or_one_a_byte_of_the_text() -> None:
    assert drain(entropic(4))[1].patch_lengths.tolist() == [1, 1, 1, 1]  # bos a b eos have 0 1 2 3
    assert drain(entropic(2))[1].patch_lengths.tolist() == [2, 2]  # a b have 0 1; bos and eos have no entropy
    both = ByteTokenizer(bos=False)
    assert PreprocessIterator(
        ListIterator([Document("d", "é", np.array([0.0, 1.0]))]), both, EntropyPatcher(0.5)
    ).create_iter().__next__().patch_lengths.tolist() == [1, 2]  # type: ignore[union-attr]
    monotonous = PreprocessIterator(
        ListIterator([Document("d", "ab", np.array([5.0, 5.0]))]), patcher=EntropyPatcher(0.5, monotonicity=True)
    )
    assert drain(monotonous)[0].patch_lengths.tolist() == [1, 3]
    negative = PreprocessIterator(
        ListIterator([Document("d", "ab", np.array([-2.0, -2.0]))]), patcher=EntropyPatcher(-1.0)
    )
    assert drain(negative)[0].patch_lengths.tolist() == [4]
    assert_resumes_exactly(lambda: entropic(2))


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_a_wrong_number_of_entropies_is_an_error_that_names_the_document(n: int) -> None:
    expected = "4, one for each token, or 2, one for each byte"
    why = rf"document 'corpus/a.jsonl:7': there are {n} entropies; there must be {expected}"
    with pytest.raises(DocumentError, match=why):
        drain(entropic(n))


def test_a_wrong_number_of_entropies_is_an_error_also_where_tokens_are_no_bytes() -> None:
    documents = [Document("d", "one two", np.zeros(3))]
    with pytest.raises(
        DocumentError, match=r"document 'd': there are 3 entropies; there must be 2, one for each token$"
    ):
        drain(PreprocessIterator(ListIterator(documents), Words(1), EntropyPatcher(0.5)))


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (Document("d", "ab"), "document 'd': entropy patches need entropies"),
        ("ab", "the text 'ab': entropy patches need entropies"),
        (Document("d", "ab", np.zeros(4, int)), "document 'd': entropies must be a 1-D array of floats, not int64"),
        (Document("d", "ab", np.zeros((2, 2))), "document 'd': entropies must be a 1-D array"),
        (Document("d", "ab", [0.0, 1.0]), "document 'd': entropies must be a 1-D array"),  # type: ignore[arg-type]
        (Document("d", "ab", np.full(4, np.nan)), "document 'd': entropy 0 is not a number"),
    ],
)
def test_entropies_that_are_missing_or_none_are_an_error_that_names_the_document(item: Any, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        drain(PreprocessIterator(ListIterator([item]), patcher=EntropyPatcher(0.5)))


def test_an_error_with_a_document_names_the_file_and_the_row_that_it_is_from() -> None:
    document = Document("d", "ab", file="corpus/a.jsonl", row=7)
    why = r"^document 'd' \(corpus/a\.jsonl, row 7 \(line 8\)\): entropy patches need entropies"
    with pytest.raises(DocumentError, match=why) as caught:
        drain(PreprocessIterator(ListIterator([document]), patcher=EntropyPatcher(0.5)))
    assert (caught.value.file, caught.value.row) == ("corpus/a.jsonl", 7)
    with pytest.raises(KeyError) as raised:
        drain(PreprocessIterator(ListIterator([document]), patcher=Odd("raises")))
    assert raised.value.__notes__ == ["while making tokens of document 'd' (corpus/a.jsonl, row 7 (line 8))"]


def test_documents_without_entropies_can_be_passed_over_counted_and_the_rest_resumes_exactly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": "ab", "entropies": [1.0, 2.0] if i % 3 == 1 else [1.0]} for i in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def skipping() -> PreprocessIterator:
        return PreprocessIterator(DocumentFileIterator(tmp_path), patcher=EntropyPatcher(1.5), on_error="skip")

    counters.drain()
    made = drain(skipping())
    assert [(item.file, item.row) for item in made] == [("x.jsonl", row) for row in range(1, 40, 3)]
    assert counters.drain() == {"documents skipped": 27}
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("skipped: document 'x.jsonl:0' (x.jsonl, row 0 (line 1)): there are 1 entropies")
    assert len(messages) == 11
    assert messages[-1].endswith("are not logged")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert_resumes_exactly(skipping)
    # The log records keep no frames alive.
    assert all(isinstance(argument, str) for record in caplog.records for argument in record.args)
    raising = PreprocessIterator(DocumentFileIterator(tmp_path), patcher=EntropyPatcher(1.5))
    differences = compare_configuration(skipping().get_state(), raising.get_state(), "it")
    assert [line.partition(":")[0] for line in differences] == ["it.on_error"]


def test_what_is_no_fault_of_the_document_is_never_passed_over() -> None:
    with pytest.raises(KeyError):
        drain(PreprocessIterator(ListIterator(["x"]), patcher=Odd("raises"), on_error="skip"))
    with pytest.raises(TypeError, match="takes documents or strings"):
        drain(PreprocessIterator(ListIterator([7]), on_error="skip"))


def test_text_that_can_not_be_encoded_is_an_error_that_names_the_document() -> None:
    with pytest.raises(DocumentError, match=r"document 'd': .*surrogates not allowed"):
        drain(PreprocessIterator(ListIterator([Document("d", "\ud800")])))


@pytest.mark.parametrize(
    ("fault", "why"),
    [("list", r"integers, not \[1, 2\]"), ("floats", "not float64"), ("table", r"shape \(1, 1\)")],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_tokenizer_that_gives_something_else_is_an_error_that_names_the_document(
    fault: str, why: str, on_error: Any
) -> None:
    with pytest.raises(TypeError, match=rf"the tokenizer must give .*{why}") as caught:
        drain(PreprocessIterator(ListIterator([Document("d", "x")]), Odd(fault), on_error=on_error))
    assert caught.value.__notes__ == ["while making tokens of document 'd'"]


@pytest.mark.parametrize(("fault", "why"), [("short", "sum to 1"), ("none", "not None"), ("zero", "patch 1 has 0")])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_patcher_that_gives_something_else_is_an_error_that_names_the_document(
    fault: str, why: str, on_error: Any
) -> None:
    with pytest.raises(RuntimeError, match=rf"the patcher Odd.* is wrong: .*{why}") as caught:
        drain(PreprocessIterator(ListIterator([Document("d", "x")]), patcher=Odd(fault), on_error=on_error))
    assert caught.value.__notes__ == ["while making tokens of document 'd'"]


@pytest.mark.parametrize("parts", [{"tokenizer": Odd("raises")}, {"patcher": Odd("raises")}])
def test_what_a_tokenizer_or_a_patcher_raises_stays_what_it_is_and_names_the_document(parts: dict[str, Any]) -> None:
    with pytest.raises(KeyError) as caught:
        drain(PreprocessIterator(ListIterator([Document("d", "x")]), **parts))
    assert caught.value.__notes__ == ["while making tokens of document 'd'"]


def test_refuses_a_patcher_that_a_checkpoint_can_not_hold() -> None:
    with pytest.raises(TypeError, match=r"can't hold the patcher: .*UnregisteredPatcher is not registered"):
        PreprocessIterator(ListIterator([]), patcher=UnregisteredPatcher())


def test_refuses_what_makes_no_patches() -> None:
    with pytest.raises(ValueError, match="patcher"):
        PreprocessIterator(ListIterator([]), patcher="space")  # type: ignore[arg-type]


def test_refuses_byte_patches_of_what_are_no_bytes_or_lie_at_another_offset() -> None:
    with pytest.raises(ValueError, match=r"expects byte 0 at 3, but ByteTokenizer\(.*offset=9\) has it at 9"):
        PreprocessIterator(ListIterator([]), ByteTokenizer(offset=9), SpacePatcher())
    with pytest.raises(ValueError, match=r"makes patches of bytes, but the tokens of Words\(.*\) are not bytes"):
        PreprocessIterator(ListIterator([]), Words(1), SpacePatcher())
    PreprocessIterator(ListIterator([]), ByteTokenizer(offset=9), SpacePatcher(9))
    PreprocessIterator(ListIterator([]), Words(1), StaticPatcher(2))


def test_the_patcher_is_configuration_and_survives_json() -> None:
    state = PreprocessIterator(ListIterator(TEXTS), patcher=EntropyPatcher(1.25, True)).get_state()
    assert IteratorState.model_validate_json(state.model_dump_json()) == state
    other = PreprocessIterator(ListIterator(TEXTS)).get_state()
    assert [line.partition(":")[0] for line in compare_configuration(state, other, "it")] == ["it.patcher"]
