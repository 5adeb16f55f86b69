from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import Document, DocumentError, DocumentFileIterator, DocumentFileState
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import drain


def rows(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven documents: b/one.py, b/rows.jsonl (3), c.txt, d.md, e.jsonl (1)."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.py").write_text("print('ä')\n", "utf-8")
    (tmp_path / "b" / "rows.jsonl").write_text(
        rows({"text": "null"}) + "\n" + rows({"text": "zwei", "sample_id": "z"}, {"text": "", "x": 1}), "utf-8"
    )
    (tmp_path / "c.txt").write_bytes(b"")
    (tmp_path / "d.md").write_bytes(b"# d\r\n")
    (tmp_path / "e.jsonl").write_bytes(b'{"text": "no line end", "sample_id": 7}')
    (tmp_path / "b" / "none.jsonl").write_bytes(b"")
    (tmp_path / "other.rst").write_text("not taken", "utf-8")
    return tmp_path


ALL = [
    Document("b/one.py", "print('ä')\n"),
    Document("b/rows.jsonl:0", "null"),
    Document("z", "zwei"),
    Document("b/rows.jsonl:3", ""),
    Document("c.txt", ""),
    Document("d.md", "# d\r\n"),
    Document("7", "no line end"),
]


def ids(iterator: DocumentFileIterator) -> list[str]:
    return [document.sample_id for document in drain(iterator)]


def after(iterator: DocumentFileIterator, count: int) -> DocumentFileState:
    documents = iterator.create_iter()
    for _ in range(count):
        next(documents)
    return iterator.get_state()


def test_a_folder_is_walked_in_the_order_of_names_and_a_row_is_a_document(corpus: Path) -> None:
    assert drain(DocumentFileIterator(corpus)) == ALL


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shards_resume_exactly_and_share_out_every_document(corpus: Path, count: int) -> None:
    for index in range(count):
        assert drain(DocumentFileIterator(corpus, shard=(index, count))) == ALL[index::count]
        assert_resumes_exactly(lambda index=index: DocumentFileIterator(corpus, shard=(index, count)))  # type: ignore[misc]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(st.text(max_size=3) | st.none(), max_size=4), min_size=1, max_size=3),
    index=st.integers(0, 2),
    data=st.data(),
)
def test_random_rows_resume_exactly(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str | None]], index: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    for i, texts in enumerate(files):
        ascii_only = data.draw(st.booleans())
        lines = ["" if t is None else json.dumps({"text": t}, ensure_ascii=ascii_only) for t in texts]
        (folder / f"{i}.jsonl").write_bytes("\n".join(lines).encode())
    expected = [text for texts in files for text in texts if text is not None]
    assert [d.text for d in drain(DocumentFileIterator(folder))] == expected
    assert_resumes_exactly(lambda: DocumentFileIterator(folder, shard=(index, 3)))


def test_resuming_seeks_and_reads_nothing_before_the_place(corpus: Path) -> None:
    state = after(DocumentFileIterator(corpus / "b" / "rows.jsonl"), 2)
    path = corpus / "b" / "rows.jsonl"
    content = path.read_bytes()
    path.write_bytes(b"\xff" * (state.offset - 1) + content[state.offset - 1 :])
    assert ids(state.build()) == ["rows.jsonl:3"]


def test_text_files_of_other_shards_are_not_read(corpus: Path) -> None:
    (corpus / "c.txt").write_bytes(b"\xff")
    assert drain(DocumentFileIterator(corpus, shard=(1, 2))) == ALL[1::2]


def test_the_state_is_of_one_size_however_many_files_there_are(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("x", "utf-8")
    small = len(DocumentFileIterator(tmp_path).get_state().model_dump_json())
    for i in range(300):
        (tmp_path / f"{i}.txt").write_text("x", "utf-8")
    large = len(after(DocumentFileIterator(tmp_path), 250).model_dump_json())
    assert large < small + 20


def test_files_globs_and_lists_mean_what_they_say(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(DocumentFileIterator(corpus / "d.md")) == ["d.md"]
    assert ids(DocumentFileIterator(str(corpus / "*.md"))) == ["d.md"]
    assert ids(DocumentFileIterator(str(corpus / "b" / "*.py"))) == ["one.py"]
    assert ids(DocumentFileIterator(str(corpus / "**" / "*.py"))) == ["b/one.py"]
    assert ids(DocumentFileIterator([corpus / "b" / "one.py", corpus / "d.md"])) == ["b/one.py", "d.md"]
    monkeypatch.chdir(corpus)
    assert ids(DocumentFileIterator("d.md")) == ["d.md"]
    assert ids(DocumentFileIterator("*.md")) == ["d.md"]
    assert ids(DocumentFileIterator(["b", "./d.md"])) == ["b/one.py", "b/rows.jsonl:0", "z", "b/rows.jsonl:3", "d.md"]


def test_a_file_that_several_paths_mean_counts_once(corpus: Path) -> None:
    assert drain(DocumentFileIterator([corpus, corpus / "b", corpus / "*.md"])) == ALL


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x", "utf-8")
    assert ids(DocumentFileIterator(tmp_path / "a[1].txt")) == ["a[1].txt"]


def test_names_that_begin_with_a_dot_are_left_out(corpus: Path) -> None:
    (corpus / ".hidden").mkdir()
    (corpus / ".hidden" / "x.txt").write_text("x", "utf-8")
    (corpus / "._d.md").write_text("x", "utf-8")
    assert drain(DocumentFileIterator(corpus)) == ALL
    assert "x.txt" not in ids(DocumentFileIterator(str(corpus / "**" / "*.txt")))


def test_excluded_names_are_left_out_of_folders_and_globs(corpus: Path) -> None:
    assert ids(DocumentFileIterator(corpus, exclude=("b", "*.jsonl"))) == ["c.txt", "d.md"]
    assert ids(DocumentFileIterator(str(corpus / "**" / "*"), exclude=("b", "*.jsonl"))) == ["c.txt", "d.md"]


def test_a_folder_that_is_named_like_an_excluded_one_may_be_given(corpus: Path) -> None:
    assert "one.py" in ids(DocumentFileIterator(corpus / "b", exclude=("b",)))


@pytest.mark.parametrize("change", ["grown", "moved", "added", "removed", "renamed"])
def test_files_that_changed_since_the_checkpoint_are_refused(corpus: Path, change: str) -> None:
    text = after(DocumentFileIterator(corpus), 2).model_dump_json()
    if change == "grown":
        (corpus / "d.md").write_text("longer than it was", "utf-8")
    elif change == "moved":  # as many bytes in all
        (corpus / "c.txt").write_bytes(b"\n")
        (corpus / "d.md").write_bytes(b"# d\n")
    elif change == "added":
        (corpus / "new.txt").write_text("x", "utf-8")
    elif change == "removed":
        (corpus / "d.md").unlink()
    else:
        (corpus / "d.md").rename(corpus / "dd.md")
    state = IteratorState.model_validate_json(text)
    with pytest.raises(
        DocumentError, match=r"are not those of the checkpoint.*6 files.*Bring them back.*or start anew"
    ):
        next(state.build().create_iter())


@pytest.mark.parametrize("name", ["d.md", "e.jsonl"])
def test_a_file_that_changes_its_size_while_we_read_is_refused(corpus: Path, name: str) -> None:
    iterator = DocumentFileIterator(corpus)
    with (corpus / name).open("a") as file:
        file.write(" ")
    with pytest.raises(DocumentError, match=f"{name}: its size is not the"):
        drain(iterator)


def test_a_row_that_moved_in_a_file_of_the_same_size_is_noticed(corpus: Path) -> None:
    path = corpus / "b" / "rows.jsonl"
    state = after(DocumentFileIterator(path), 1)
    content = path.read_bytes()
    path.write_bytes(content[2:] + b"\n\n")
    with pytest.raises(DocumentError, match="no row begins at byte"):
        drain(state.build())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'["text"]', "must be a JSON object with the field 'text'"),
        (b'{"body": "a", "id": 1}', "the field 'text' is missing; there are 'body', 'id'"),
        (b'{"text": 3}', "the field 'text' must be a string, not 3"),
        (b'{"text": "a", "sample_id": [1]}', "the field 'sample_id' must be a string or an integer"),
        (b'{"text": "a\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "not UTF-8"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it_and_the_rest_resumes_at_it(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    iterator = DocumentFileIterator(tmp_path)
    documents = iterator.create_iter()
    assert next(documents).text == "good"
    with pytest.raises(DocumentError, match=reason) as caught:
        next(documents)
    assert f"{path}, row 2 (line 3): " in str(caught.value)
    assert (caught.value.file, caught.value.row) == ("bad.jsonl", 2)
    with pytest.raises(DocumentError, match=reason):
        next(iterator.get_state().build().create_iter())


def test_a_text_file_that_is_not_utf8_is_an_error_that_names_it_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(DocumentError, match=r"latin\.txt: not UTF-8 .*encoding_errors='replace'") as caught:
        drain(DocumentFileIterator(tmp_path))
    assert (caught.value.file, caught.value.row) == ("latin.txt", None)


def test_bytes_that_are_no_utf8_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"na\xefve")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\xff \\ud83d\\ude00"}\n{"text": "<\\ud800>"}\n')
    texts = [d.text for d in drain(DocumentFileIterator(tmp_path, encoding_errors="replace"))]
    assert texts == ["na\ufffdve", "\ufffd \U0001f600", "<\ufffd\ufffd\ufffd>"]


def test_missing_and_empty_places_are_errors_that_name_them(corpus: Path) -> None:
    (corpus / "empty").mkdir()
    for given_path, reason in [
        (corpus / "nowhere", "does not exist"),
        (corpus / "empty", "holds no file"),
        (corpus / "*.html", "holds no file"),
        (corpus / "other.rst", "is not one of"),
    ]:
        with pytest.raises(DocumentError, match=reason) as caught:
            DocumentFileIterator([corpus, given_path])
        assert caught.value.file == str(given_path)
    with pytest.raises(DocumentError, match="no paths"):
        DocumentFileIterator([])
    with pytest.raises(DocumentError, match="that is not excluded"):
        DocumentFileIterator(corpus, exclude=("*",))


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0)])
def test_refuses_a_shard_that_does_not_exist(corpus: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= index < count"):
        DocumentFileIterator(corpus, shard=shard)


def test_refuses_an_unknown_way_of_handling_encoding_errors(corpus: Path) -> None:
    with pytest.raises(ValueError, match="encoding_errors"):
        DocumentFileIterator(corpus, encoding_errors="skip")  # type: ignore[arg-type]


def test_paths_shard_and_listing_are_configuration_and_the_place_is_not(corpus: Path) -> None:
    def differing(given_state: IteratorState) -> list[str]:
        return [line.partition(":")[0] for line in compare_configuration(saved, given_state, "it")]

    saved = after(DocumentFileIterator(corpus), 3)
    assert differing(DocumentFileIterator(corpus).get_state()) == []
    assert differing(DocumentFileIterator(corpus, shard=(0, 2)).get_state()) == ["it.shard[1]"]
    assert differing(DocumentFileIterator(corpus / "b").get_state()) == ["it.paths[0]", "it.listing"]


def test_an_error_survives_pickling(corpus: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        DocumentFileIterator(corpus / "nowhere")
    back = pickle.loads(pickle.dumps(caught.value))
    assert (str(back), back.file, back.row) == (str(caught.value), caught.value.file, None)


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX")
def test_a_file_whose_name_is_no_utf8_resumes_exactly(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("x", "utf-8")
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path))
