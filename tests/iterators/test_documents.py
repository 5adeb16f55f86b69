from __future__ import annotations

import codecs
import io
import json
import logging
import os
import pickle
import subprocess
import sys
from ast import literal_eval
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncprefetch import IteratorState
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import Document, DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import counters
from tests.iterators.corpora import FORMATS, LINES, after, ids, lines_of, write, write_table
from tests.iterators.sources import drain


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with seven documents: b/one.py, b/rows.jsonl (3), c.txt, d.md, e.jsonl (1)."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.py").write_text("print('ä')\n", "utf-8")
    (tmp_path / "b" / "rows.jsonl").write_bytes(
        lines_of([{"text": "null"}, None, {"text": "zwei", "sample_id": "z"}, {"text": "", "x": 1}])
    )
    (tmp_path / "c.txt").write_bytes(b"c")
    (tmp_path / "d.md").write_bytes(b"# d\r\n")
    (tmp_path / "e.jsonl").write_bytes(b'{"text": "no line end", "sample_id": 7}')
    (tmp_path / "other.rst").write_text("not taken", "utf-8")
    return tmp_path


ALL = [
    Document("b/one.py", "print('ä')\n"),
    Document("b/rows.jsonl:0", "null"),
    Document("z", "zwei"),
    Document("b/rows.jsonl:3", ""),
    Document("c.txt", "c"),
    Document("d.md", "# d\r\n"),
    Document("7", "no line end"),
]


def test_a_folder_is_walked_in_the_order_of_names_and_a_row_is_a_document(corpus: Path) -> None:
    assert drain(DocumentFileIterator(corpus)) == ALL


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shards_resume_exactly_and_share_out_every_document(corpus: Path, count: int) -> None:
    for index in range(count):
        assert drain(DocumentFileIterator(corpus, shard=(index, count))) == ALL[index::count]
        assert_resumes_exactly(lambda index=index: DocumentFileIterator(corpus, shard=(index, count)))  # type: ignore[misc]


def test_text_files_of_other_shards_are_not_opened(corpus: Path) -> None:
    iterator = DocumentFileIterator(corpus, shard=(1, 2))
    (corpus / "c.txt").unlink()
    assert drain(iterator) == ALL[1::2]


def test_the_state_is_of_one_size_however_many_files_there_are(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("x", "utf-8")
    small = len(DocumentFileIterator(tmp_path).get_state().model_dump_json())
    for i in range(300):
        (tmp_path / f"{i}.txt").write_text("x", "utf-8")
    large = len(after(DocumentFileIterator(tmp_path), 250).model_dump_json())
    assert large < small + 40  # more digits, and a digest of the text that was read


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


def test_an_empty_glob_in_a_folder_with_brackets_says_what_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]" / "b?"
    folder.mkdir(parents=True)
    (folder / "c[2].txt").write_text("x", "utf-8")
    with pytest.raises(DocumentError, match=r"matches no file\. The folder '.*' exists, but") as caught:
        DocumentFileIterator(folder / "*.txt")
    advice = str(caught.value).partition("write ")[2]
    assert ids(DocumentFileIterator(literal_eval(advice))) == ["a[1]/b?/c[2].txt"]
    assert ids(DocumentFileIterator(folder)) == ["c[2].txt"]
    with pytest.raises(DocumentError, match=r"missing\.txt' does not exist"):
        DocumentFileIterator(folder / "missing.txt")
    with pytest.raises(DocumentError, match=r"holds no file .* that is not excluded"):
        DocumentFileIterator(folder, exclude="*.txt")
    with pytest.raises(DocumentError, match=r"holds no file .* that is not excluded"):
        DocumentFileIterator(tmp_path / "nowhere[1]" / "*.txt")


def test_names_that_begin_with_a_dot_are_left_out(corpus: Path) -> None:
    (corpus / ".hidden").mkdir()
    (corpus / ".hidden" / "x.txt").write_text("x", "utf-8")
    (corpus / "._d.md").write_text("x", "utf-8")
    assert drain(DocumentFileIterator(corpus)) == ALL
    assert "x.txt" not in ids(DocumentFileIterator(str(corpus / "**" / "*.txt")))


def test_excluded_names_are_left_out_of_folders_and_globs(corpus: Path) -> None:
    assert ids(DocumentFileIterator(corpus, exclude=("b", "*.jsonl"))) == ["c.txt", "d.md"]
    assert ids(DocumentFileIterator(str(corpus / "**" / "*"), exclude=("b", "*.jsonl"))) == ["c.txt", "d.md"]


def test_what_is_excluded_may_be_one_string(corpus: Path) -> None:
    iterator = DocumentFileIterator(corpus, exclude="*.jsonl")
    assert ids(iterator) == ["b/one.py", "c.txt", "d.md"]
    assert iterator.get_state().exclude == ("*.jsonl",)


def test_a_folder_that_is_named_like_an_excluded_one_may_be_given(corpus: Path) -> None:
    assert "one.py" in ids(DocumentFileIterator(corpus / "b", exclude=("b",)))


@pytest.mark.parametrize("change", ["grown", "moved", "added", "removed", "renamed"])
def test_files_that_changed_since_the_checkpoint_are_refused(corpus: Path, change: str) -> None:
    text = after(DocumentFileIterator(corpus), 2).model_dump_json()
    if change == "grown":
        (corpus / "d.md").write_text("longer than it was", "utf-8")
    elif change == "moved":  # the total size stays the same
        (corpus / "c.txt").write_bytes(b"c\n")
        (corpus / "d.md").write_bytes(b"# d\n")
    elif change == "added":
        (corpus / "new.txt").write_text("x", "utf-8")
    elif change == "removed":
        (corpus / "d.md").unlink()
    else:
        (corpus / "d.md").rename(corpus / "dd.md")
    state = IteratorState.model_validate_json(text)
    with pytest.raises(
        DocumentError, match=r"are not those of the checkpoint.*5 files.*Restore the files, or start without"
    ):
        next(state.build().create_iter())


@pytest.mark.parametrize("name", ["d.md", "e.jsonl"])
def test_a_file_that_changes_its_size_while_we_read_is_refused(corpus: Path, name: str) -> None:
    iterator = DocumentFileIterator(corpus)
    with (corpus / name).open("a") as file:
        file.write(" ")
    with pytest.raises(DocumentError, match=f"{name}: its size is not the"):
        drain(iterator)


def test_a_text_file_that_is_not_utf8_is_an_error_that_names_it_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(DocumentError, match=r"latin\.txt: not UTF-8 .*encoding_errors='replace'") as caught:
        drain(DocumentFileIterator(tmp_path))
    assert (caught.value.file, caught.value.row) == ("latin.txt", None)


def test_bytes_of_a_text_file_that_are_no_utf8_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"na\xefve")
    assert drain(DocumentFileIterator(tmp_path, encoding_errors="replace")) == [Document("a.txt", "na\ufffdve")]


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"a")
    (tmp_path / "b.txt").write_bytes(codecs.BOM_UTF8)
    (tmp_path / "c.txt").write_bytes(codecs.BOM_UTF8 * 2)
    assert drain(DocumentFileIterator(tmp_path, on_error="skip")) == [
        Document("a.txt", "a"),
        Document("c.txt", "\ufeff"),
    ]
    with pytest.raises(DocumentError, match=r"b\.txt: the file is empty"):
        drain(DocumentFileIterator(tmp_path))


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_text_with_the_byte_order_mark_of_another_encoding_is_an_error_that_names_both(
    tmp_path: Path, encoding: str, errors: Any
) -> None:
    (tmp_path / "a.txt").write_bytes("hello".encode(encoding))
    message = rf"a\.txt: it begins with the byte order mark of {encoding.upper()}: use encoding='{encoding}' for"
    with pytest.raises(DocumentError, match=message):
        drain(DocumentFileIterator(tmp_path, encoding_errors=errors))


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
    for suffix in FORMATS:
        write(tmp_path / f"x{suffix}", [{"text": "x"}]).rename(tmp_path / os.fsdecode(b"\xff" + suffix.encode()))
    assert len(ids(DocumentFileIterator(tmp_path))) == 7
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path))


def test_all_formats_lie_side_by_side_in_the_order_of_names(tmp_path: Path) -> None:
    for i, suffix in enumerate(FORMATS):
        write(tmp_path / f"{i}{suffix}", [{"text": f"{i}.{row}"} for row in range(3)])
    (tmp_path / "6.txt").write_text("6", "utf-8")
    texts = [f"{i}.{row}" for i in range(len(FORMATS)) for row in range(3)] + ["6"]
    assert [d.text for d in drain(DocumentFileIterator(tmp_path))] == texts
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path))
    shards = [[d.text for d in drain(DocumentFileIterator(tmp_path, shard=(i, 4)))] for i in range(4)]
    assert sorted(text for shard in shards for text in shard) == sorted(texts)
    assert [len(shard) for shard in shards] == [5, 5, 5, 4]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_rows_has_all_that_a_row_holds(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"x{suffix}",
        [
            {"body": "eins", "key": "a", "h": [0.5, 1.25], "lang": "de", "n": 1, "other": "x"},
            {"body": "", "key": "b", "h": [], "lang": None, "n": 2, "other": "x"},
            {"body": "ö\U0001f600", "key": None, "h": None, "lang": "", "n": 3, "other": "x"},
        ],
    )

    def make() -> DocumentFileIterator:
        return DocumentFileIterator(path, text_field="body", id_field="key", entropies_field="h", columns=("n", "lang"))

    assert drain(make()) == [
        Document("a", "eins", np.array([0.5, 1.25]), {"n": 1, "lang": "de"}),
        Document("b", "", np.array([]), {"n": 2, "lang": None}),
        Document(f"x{suffix}:2", "ö\U0001f600", None, {"n": 3, "lang": ""}),
    ]
    assert list(drain(make())[0].columns) == ["n", "lang"]
    plain = drain(DocumentFileIterator(path, text_field="body", id_field=None))
    assert plain[0] == Document(f"x{suffix}:0", "eins")
    assert_resumes_exactly(make)


def test_documents_are_equal_if_their_entropies_are_number_by_number() -> None:
    one = Document("a", "x", np.array([1.0, 2.0]))
    assert one == Document("a", "x", np.array([1.0, 2.0]))
    assert hash(one) == hash(Document("a", "x", np.array([1.0, 2.0])))
    for other in (
        Document("a", "x"),
        Document("a", "x", np.array([1.0, 3.0])),
        Document("a", "x", np.array([1.0])),
        Document("a", "x", np.array([1.0, 2.0], np.float32)),
        Document("a", "x", np.array([1.0, 2.0]), {"n": 1}),
        "a",
    ):
        assert one != other


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_of_rows_without_a_row_is_an_error_that_names_it_and_can_be_passed_over(
    tmp_path: Path, suffix: str
) -> None:
    if suffix in LINES:
        write(tmp_path / f"a{suffix}", [])
    else:
        write_table(tmp_path / f"a{suffix}", pa.table({"text": pa.array([], pa.string())}))
    (tmp_path / "b.jsonl").write_bytes(b"\n\n")
    (tmp_path / "c.txt").write_text("x", "utf-8")
    with pytest.raises(DocumentError, match=rf"a{suffix}: the file is empty") as caught:
        drain(DocumentFileIterator(tmp_path))
    assert (caught.value.file, caught.value.row) == (f"a{suffix}", None)
    with pytest.raises(DocumentError, match=r"b.jsonl: the file is empty"):
        drain(DocumentFileIterator([tmp_path / "b.jsonl", tmp_path / "c.txt"]))
    assert ids(DocumentFileIterator(tmp_path, on_error="skip")) == ["c.txt"]
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path, on_error="skip"))


def test_an_empty_text_file_is_an_error_that_says_what_to_do_and_can_be_passed_over(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_bytes(b"")
    (tmp_path / "a.py").write_bytes(b"\n")
    with pytest.raises(
        DocumentError, match=r"__init__.py: the file is empty: exclude it with exclude=, or use"
    ) as caught:
        drain(DocumentFileIterator(tmp_path))
    assert (caught.value.file, caught.value.row) == ("__init__.py", None)
    counters.drain()
    assert ids(DocumentFileIterator(tmp_path, on_error="skip")) == ["a.py"]
    assert counters.drain() == {"documents skipped": 1}
    assert ids(DocumentFileIterator(tmp_path, exclude="__init__.py")) == ["a.py"]
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path, on_error="skip"))


def test_a_local_file_whose_name_looks_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("memory::x.txt").write_text("here", "utf-8")
    assert [d.text for d in drain(DocumentFileIterator("memory::x.txt"))] == ["here"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_document_knows_file_and_row(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / f"x{suffix}", [{"text": str(i), "sample_id": "same"} for i in range(5)])
    (tmp_path / "y.txt").write_text("y", "utf-8")
    got = [(d.file, d.row) for d in drain(DocumentFileIterator(tmp_path))]
    assert got == [*((f"a/x{suffix}", row) for row in range(5)), ("y.txt", None)]


def test_documents_that_say_the_same_are_equal_wherever_they_were_read_from() -> None:
    assert Document("d", "text", file="a.jsonl", row=1) == Document("d", "text", file="b.jsonl")
    assert hash(Document("d", "text", file="a.jsonl", row=1)) == hash(Document("d", "text"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_that_are_passed_over_are_counted_and_logged_and_the_rest_resumes_exactly(
    tmp_path: Path, suffix: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a", None, "b", "c", None, None, "d"]
    write(tmp_path / f"x{suffix}", [{"text": text} for text in texts])
    (tmp_path / "y.txt").write_bytes(b"\xff")
    (tmp_path / "z.txt").write_bytes(b"e")
    counters.drain()
    shards = [DocumentFileIterator(tmp_path, on_error="skip", shard=(i, count)) for i in range(count)]
    assert sorted(d.text for shard in shards for d in drain(shard)) == ["a", "b", "c", "d", "e"]
    assert counters.drain() == {"documents skipped": 4}
    assert sorted(record.getMessage().partition(": the")[0] for record in caplog.records)[:3] == [
        f"skipped: {tmp_path / f'x{suffix}'}, row {row}" + (f" (line {row + 1})" if suffix in LINES else "")
        for row in (1, 4, 5)
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    for i in range(count):
        assert_resumes_exactly(lambda i=i: DocumentFileIterator(tmp_path, on_error="skip", shard=(i, count)))  # type: ignore[misc]


def test_only_the_first_ten_rows_of_a_file_that_are_passed_over_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"{\n" * 30 + b'{"text": "x"}\n')
    counters.drain()
    assert len(ids(DocumentFileIterator(tmp_path, on_error="skip"))) == 2
    assert counters.drain() == {"documents skipped": 60}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 22
    assert [i for i, message in enumerate(messages) if message.endswith("are not logged")] == [10, 21]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_in_progress_that_kept_its_size_and_changed_its_head_is_refused(
    tmp_path: Path, suffix: str, on_error: Any
) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": f"row {i}"} for i in range(9)])
    text = after(DocumentFileIterator(path, on_error=on_error), 4).model_dump_json()
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.raises(DocumentError, match=rf"x{suffix}: its size is that .* but its first bytes differ") as caught:
        drain(IteratorState.model_validate_json(text).build())  # type: ignore[arg-type]
    assert (caught.value.file, caught.value.row) == (f"x{suffix}", None)
    path.write_bytes(content)
    assert len(drain(IteratorState.model_validate_json(text).build())) == 5


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_changes_its_size_while_we_read_is_never_passed_over(tmp_path: Path, on_error: Any) -> None:
    write(tmp_path / "x.jsonl", [{"text": "x"}])
    iterator = DocumentFileIterator(tmp_path, on_error=on_error)
    (tmp_path / "x.jsonl").write_bytes(b"")
    with pytest.raises(DocumentError, match=r"x.jsonl: its size is not the"):
        drain(iterator)


def test_after_the_end_no_file_is_opened_again(corpus: Path) -> None:
    iterator = DocumentFileIterator(corpus)
    drain(iterator)
    state = iterator.get_state()
    assert (state.file, state.document, state.offset, state.size, state.head) == (5, 7, 0, 0, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "FileIO", None)
        assert drain(state.build()) == []


def test_a_state_of_before_there_were_heads_goes_on(corpus: Path) -> None:
    data = json.loads(after(DocumentFileIterator(corpus), 4).model_dump_json())
    new = {"on_error", "text_field", "id_field", "entropies_field", "columns", "skip", "size", "head"}
    text = json.dumps({**data, "fields": {k: v for k, v in data["fields"].items() if k not in new}})
    assert drain(IteratorState.model_validate_json(text).build()) == ALL[4:]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "package"), [("x.parquet", "pyarrow"), ("x.arrow", "pyarrow"), ("x.jsonl.zst", "zstandard")]
)
def test_a_format_whose_package_is_missing_is_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    state = DocumentFileIterator(write(tmp_path / name, [{"text": "x"}])).get_state()
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package}: pip install 'asyncprefetch\[files\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        DocumentFileIterator(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=message):
        drain(state.build())


def test_without_the_extra_all_else_is_read(corpus: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'fsspec', 'zstandard']))\n"
        "from asyncprefetch.iterators import DocumentFileIterator\n"
        "print(sum(1 for _ in DocumentFileIterator(sys.argv[1]).create_iter()))"
    )
    write(corpus / "x.jsonl.gz", [{"text": "x"}])
    done = subprocess.run([sys.executable, "-c", code, str(corpus)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "8"


def test_a_text_file_has_no_columns(corpus: Path) -> None:
    with pytest.raises(DocumentError, match=r"d.md: a text file has no columns, so it has no 'lang'"):
        drain(DocumentFileIterator(corpus / "d.md", columns=("lang",)))


def test_refuses_columns_that_are_one_string(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"such as \('lang',\)"):
        DocumentFileIterator(corpus, columns="lang")


def test_refuses_an_unknown_way_of_handling_errors(corpus: Path) -> None:
    with pytest.raises(ValueError, match="on_error"):
        DocumentFileIterator(corpus, on_error="ignore")  # type: ignore[arg-type]


def test_get_state_is_cheap_and_small(corpus: Path) -> None:
    iterator = DocumentFileIterator(corpus)
    documents = iterator.create_iter()
    next(documents)
    next(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", None)
        patch.setattr(io, "FileIO", None)
        assert len(iterator.get_state().model_dump_json()) < 1000
