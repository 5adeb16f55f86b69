"""Files at URLs, on fsspec's in-memory filesystem."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from asyncprefetch import IteratorState
from asyncprefetch.iterators import DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import _files
from tests.iterators.corpora import FORMATS, after, ids, write
from tests.iterators.sources import drain


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Path]:
    """A folder with files of all formats. ``memory://corpus`` is a copy of it."""
    folder = tmp_path / "here"
    (folder / "b").mkdir(parents=True)
    for i, suffix in enumerate(FORMATS):
        write(folder / ("b" if i % 2 else ".") / f"{i}{suffix}", [{"text": f"{i}.{row}"} for row in range(3)])
    (folder / "c.txt").write_text("c", "utf-8")
    (folder / "folder.txt").mkdir()
    (folder / "folder.txt" / "d.md").write_text("d", "utf-8")
    (folder / "other.rst").write_text("not taken", "utf-8")
    (folder / ".hidden.txt").write_text("not taken", "utf-8")
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", "/corpus/", recursive=True)
    yield folder
    filesystem.rm("/corpus", recursive=True)


def test_a_folder_at_a_url_gives_the_same_as_a_local_one(remote: Path) -> None:
    here = drain(DocumentFileIterator(remote))
    assert len(here) == 20
    assert drain(DocumentFileIterator("memory://corpus")) == here
    assert drain(DocumentFileIterator("memory://corpus/")) == here
    assert drain(DocumentFileIterator(f"file://{remote}")) == here
    for i in range(2):
        assert drain(DocumentFileIterator("memory://corpus", shard=(i, 2))) == drain(
            DocumentFileIterator(remote, shard=(i, 2))
        )
        assert_resumes_exactly(lambda i=i: DocumentFileIterator("memory://corpus", shard=(i, 2)))  # type: ignore[misc]


@pytest.mark.parametrize(
    "tail", ["c.txt", "b", "*.txt", "b/*", "**/*.jsonl*", "*/*.parquet", "[0-9].*", ".hidden.txt", ".h*.txt"]
)
def test_files_folders_and_globs_at_a_url_mean_the_same_as_local_ones(remote: Path, tail: str) -> None:
    here = ids(DocumentFileIterator(f"{remote}/{tail}"))
    assert here
    assert ids(DocumentFileIterator(f"memory://corpus/{tail}")) == here


def test_a_folder_and_a_glob_at_the_root_of_a_url(remote: Path) -> None:
    assert ids(DocumentFileIterator("memory://*/c.txt")) == ["corpus/c.txt"]
    assert "corpus/c.txt" in ids(DocumentFileIterator("memory://"))


def test_urls_may_be_chained(remote: Path) -> None:
    assert ids(DocumentFileIterator("simplecache::memory://corpus/*.txt")) == ["c.txt"]
    assert_resumes_exactly(lambda: DocumentFileIterator("simplecache::memory://corpus/b"))


def test_names_are_excluded_as_they_are_here(remote: Path) -> None:
    def excluding(path: str | Path) -> DocumentFileIterator:
        return DocumentFileIterator(path, exclude=("b", "*.parquet"))

    assert ids(excluding("memory://corpus")) == ids(excluding(remote)) != ids(DocumentFileIterator(remote))


def test_files_from_here_and_from_elsewhere_and_each_once(remote: Path) -> None:
    paths = [remote / "c.txt", "memory://corpus/b", "memory://corpus/b/*", "memory://corpus/c.txt"]
    names = ids(DocumentFileIterator(paths))
    assert names[0] == "c.txt"
    assert names[-1] == "memory:///corpus/c.txt"
    assert len(names) == len(set(names)) == 11
    assert_resumes_exactly(lambda: DocumentFileIterator(paths))


def test_missing_and_empty_places_are_errors_that_name_them(remote: Path) -> None:
    for url, reason in [
        ("memory://corpus/nowhere.txt", "does not exist"),
        ("memory://corpus/*.html", "holds no file"),
        ("memory://corpus/other.rst", "is not one of"),
    ]:
        with pytest.raises(DocumentError, match=reason) as caught:
            DocumentFileIterator(url)
        assert caught.value.file == url


def test_files_that_changed_since_the_checkpoint_are_refused(remote: Path) -> None:
    text = after(DocumentFileIterator("memory://corpus/0.jsonl"), 2).model_dump_json()
    filesystem = fsspec.filesystem("memory")
    content = filesystem.cat("/corpus/0.jsonl")
    filesystem.pipe("/corpus/0.jsonl", content.replace(b"0.0", b"9.9"))
    with pytest.raises(
        DocumentError, match=r"memory:///corpus/0.jsonl: its size is that .* but its first bytes differ"
    ):
        drain(IteratorState.model_validate_json(text).build())  # type: ignore[arg-type]
    filesystem.pipe("/corpus/0.jsonl", content + b"\n")
    with pytest.raises(DocumentError, match="are not those of the checkpoint"):
        drain(IteratorState.model_validate_json(text).build())  # type: ignore[arg-type]
    filesystem.pipe("/corpus/0.jsonl", content)
    assert ids(IteratorState.model_validate_json(text).build()) == ["0.jsonl:2"]  # type: ignore[arg-type]


def test_a_filesystem_must_not_answer_from_a_list_that_it_remembers(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgot: list[None] = []
    monkeypatch.setattr(MemoryFileSystem, "invalidate_cache", lambda self, path=None: forgot.append(None))
    state = DocumentFileIterator("memory://corpus").get_state()
    drain(state.build())
    assert len(forgot) == 2


def test_the_error_of_a_bad_row_names_the_url(remote: Path) -> None:
    fsspec.filesystem("memory").pipe("/corpus/0.jsonl", b'{"text": 1}\n')
    with pytest.raises(DocumentError, match=r"^memory:///corpus/0.jsonl, row 0 \(line 1\): the field 'text' must"):
        drain(DocumentFileIterator("memory://corpus"))


def test_a_url_without_fsspec_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"'memory://corpus' needs the package fsspec: pip install .*\[files\]"
    ):
        DocumentFileIterator("memory://corpus")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_what_a_filesystem_raises_is_raised_as_it_is_and_never_passed_over(
    tmp_path: Path, suffix: str, on_error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": "x" * 900 + str(i)} for i in range(9)])
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(path), "/corpus/")
    open_ = MemoryFileSystem.open
    monkeypatch.setattr(_files, "_BUFFER", 128)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, *how: Failing(open_(self, *how).getvalue()))
    try:
        raised = 0
        for reads, error in product(range(30), (OSError("token expired"), EOFError("hung up"), ValueError("closed"))):
            Failing.error, Failing.reads = error, reads
            iterator = DocumentFileIterator("memory://corpus/", on_error=on_error)
            outcome = attempt(iterator)
            if Failing.reads < 0:  # the iterator made the read that fails
                assert outcome is error
                raised += 1
            else:
                assert outcome == 9
        assert raised > 3
    finally:
        filesystem.rm("/corpus", recursive=True)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("suffix", [*FORMATS, ".txt"])
def test_a_filesystem_that_ends_a_file_early_without_a_word_loses_nothing(
    tmp_path: Path, suffix: str, on_error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"x" * 5000) if suffix == ".txt" else write(path, [{"text": "x" * 900 + str(i)} for i in range(9)])
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(path), "/corpus/")
    size = path.stat().st_size
    open_ = MemoryFileSystem.open
    monkeypatch.setattr(_files, "_BUFFER", 128)
    monkeypatch.setattr(MemoryFileSystem, "open", lambda self, *how: EndingEarly(open_(self, *how).getvalue()))
    try:
        for EndingEarly.given in {0, 1, size // 3, size // 2, size - 1}:
            outcome = attempt(DocumentFileIterator("memory://corpus/", on_error=on_error))
            assert isinstance(outcome, OSError), EndingEarly.given
            assert f"has {size} bytes, and its filesystem gave" in str(outcome)
        EndingEarly.given = size
        assert attempt(DocumentFileIterator("memory://corpus/", on_error=on_error)) == (1 if suffix == ".txt" else 9)
    finally:
        filesystem.rm("/corpus", recursive=True)


class EndingEarly(io.BytesIO):
    """A remote file that returns fewer bytes than its size."""

    given: int

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer) as view:
            return super().readinto(view[: max(EndingEarly.given - self.tell(), 0)])

    def read(self, size: int | None = -1) -> bytes:
        left = max(EndingEarly.given - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def attempt(iterator: DocumentFileIterator) -> int | Exception:
    """Return the number of documents, or the error that was raised."""
    try:
        return len(drain(iterator))
    except Exception as error:
        return error


class Failing(io.BytesIO):
    """A remote file with one read that fails."""

    error: Exception
    reads: int

    def readinto(self, buffer: Any) -> int:
        self._count()
        return super().readinto(buffer)

    def read(self, size: int | None = -1) -> bytes:
        self._count()
        return super().read(size)

    def _count(self) -> None:
        Failing.reads -= 1
        if Failing.reads == -1:
            raise Failing.error
