"""Whatever happens during a save, the old file or the new one is whole. ``check_writable`` finds problems beforehand."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from asyncprefetch import AsyncPrefetcherState, CheckpointError
from tests.faults.containers import document_of, make_container
from tests.inside import files

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_bytes.py"
OLD = AsyncPrefetcherState.from_bytes(make_container(document_of(item=1)))
NEW = AsyncPrefetcherState.from_bytes(
    make_container(document_of(item={"$": "bytes", "v": 0}), [bytes(range(256)) * 2000])  # more than one buffer
)


class Raw(io.FileIO):
    """A file whose ``write(2)`` takes at most ``limit`` bytes. ``step`` may make it fail."""

    step: Callable[[str], None]
    limit = 1 << 30

    def write(self, data: Any) -> int:
        self.step("write")
        return super().write(memoryview(data)[: self.limit])


@contextmanager
def steps(step: Callable[[str], None], limit: int = 1 << 30) -> Iterator[None]:
    """Call ``step`` with its name before each system call by which a file is written.

    ``write(2)`` takes at most ``limit`` bytes at a time.
    """
    patched = pytest.MonkeyPatch()

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **keywords: Any) -> Any:
            step(f"{name} of the directory" if name in ("open", "fsync", "close") and of_directory(*args) else name)
            return real(*args, **keywords)

        patched.setattr(os, name, call)

    def open_raw(path: Path, mode: str, *, opener: Any) -> Any:
        if mode != "xb":
            return builtins.open(path, mode, opener=opener)
        raw = Raw(path, mode, opener=opener)
        raw.step, raw.limit = step, limit
        return io.BufferedWriter(raw)

    for name in ("open", "fsync", "replace", "close"):
        watch(name)
    patched.setattr(files, "open", open_raw, raising=False)
    try:
        yield
    finally:
        patched.undo()


def of_directory(what: Any, *rest: Any) -> bool:
    try:
        return stat.S_ISDIR(os.stat(what).st_mode)
    except OSError:
        return False


def names_of_steps(folder: Path, limit: int = 1 << 30) -> list[str]:
    done: list[str] = []
    with steps(done.append, limit):
        NEW._save(folder / "names")
    (folder / "names").unlink()
    return done


def there(folder: Path) -> AsyncPrefetcherState:
    return AsyncPrefetcherState._load(folder / "state", None)


@pytest.mark.parametrize("limit", [1 << 30, 100_000], ids=["whole", "short"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ENOMEM])
def test_each_system_call_that_fails_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, number: int, limit: int
) -> None:
    names = names_of_steps(tmp_path, limit)
    before = names.index("replace")
    assert names[0] == "open"
    assert names[before - 1 : before + 2] == ["fsync", "replace", "open of the directory"]
    assert names[before + 2 :] == ["fsync of the directory", "close of the directory"]
    assert set(names[1 : before - 1]) == {"write"}
    assert (before > 6) == (limit == 100_000)
    for failing, name in enumerate(names):
        OLD._save(tmp_path / "state")
        left = iter(range(len(names)))

        def step(name: str, left: Any = left, failing: int = failing) -> None:
            if next(left, None) == failing:
                raise OSError(number, os.strerror(number))

        with steps(step, limit), pytest.raises(CheckpointError, match=f"state.*{os.strerror(number)}"):
            NEW._save(tmp_path / "state")
        assert there(tmp_path) == (NEW if failing > before else OLD), name
        assert os.listdir(tmp_path) == ["state"], name
    NEW._save(tmp_path / "state")
    assert there(tmp_path) == NEW


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    with steps(lambda name: None, limit=1000):
        NEW._save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == NEW.to_bytes()


def test_a_removal_that_fails_too_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    OLD._save(tmp_path / "state")
    monkeypatch.setattr(os, "unlink", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        NEW._save(tmp_path / "state")
    assert there(tmp_path) == OLD


# ------------------------------------------------------------------------------------------------------ what a disk keeps


def test_after_a_power_cut_at_any_step_a_disk_holds_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Data that was not synced may be lost: part of a file's bytes, or a new name in a directory."""
    trace: list[str] = []
    temporary: list[bytes] = []  # the content of the temporary file at each step

    def step(name: str) -> None:
        trace.append(name)
        found = [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        temporary.append(found[0].read_bytes() if found else temporary[-1] if temporary else b"")

    OLD._save(tmp_path / "state")
    with steps(step, limit=200_000):
        NEW._save(tmp_path / "state")
    old, whole = OLD.to_bytes(), NEW.to_bytes()
    synced = trace.index("fsync")
    renamed = trace.index("replace")
    seen = set()
    for cut in range(len(trace) + 1):  # the power fails before this step
        written = temporary[min(cut, len(trace) - 1)]
        contents = {written} if cut > synced else {written[:size] for size in (0, len(written) // 2, len(written))}
        if cut <= synced:
            contents.add(bytes(len(written)))  # the disk has the size, but not the blocks
        renames = {False, True} if cut > renamed else {False}
        if cut > trace.index("fsync of the directory"):
            renames = {True}
        for content, new_name in product(contents, renames):
            kept = content if new_name else old
            seen.add("new" if new_name else "old")
            assert kept in (old, whole), trace[:cut]
    assert seen == {"old", "new"}
    # Without this order the loop above would prove nothing.
    assert synced < renamed < trace.index("fsync of the directory")
    assert temporary[synced] == whole


def kill_at_each_step(folder: Path) -> None:
    """Fork a process for each step, and kill it there. Run this in a process without threads, because it forks."""
    names = names_of_steps(folder, 200_000)
    OLD._save(folder / "state")
    for failing, name in enumerate(names):
        pid = os.fork()
        if pid == 0:
            left = iter(range(len(names)))

            def step(name: str, left: Any = left, failing: int = failing) -> None:
                if next(left, None) == failing:
                    os.kill(os.getpid(), signal.SIGKILL)

            with steps(step, 200_000):
                NEW._save(folder / "state")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), name
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert there(folder) == (NEW if failing > names.index("replace") else OLD), name
    # A temporary file may be left. It does not prevent a later save.
    assert all(path.name == "state" or path.name.startswith(".asyncprefetch-") for path in folder.iterdir())
    OLD._save(folder / "state")
    assert there(folder) == OLD
    print(len(names))


def test_a_process_killed_at_each_step_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    code = "import sys, pathlib, tests.faults.test_power_cut as cut; cut.kill_at_each_step(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        cwd=EXAMPLE.parents[1],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8


# ------------------------------------------------------------------------------------- before training starts, not after


def only(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.both_loops
async def test_a_directory_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    await AsyncPrefetcherState.check_writable(tmp_path / "state")
    assert only(tmp_path) == {}
    await OLD.save(tmp_path / "state")
    await AsyncPrefetcherState.check_writable(str(tmp_path / "state"))
    assert only(tmp_path) == {"state": OLD.to_bytes()}


async def test_the_check_refuses_a_path_with_the_same_reason_as_a_save(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in [
        (tmp_path / "missing" / "state", "No such file or directory"),
        (tmp_path / "file" / "state", "Not a directory"),
        (tmp_path / "folder", "directory"),
        (tmp_path / "loop" / "state", "symbolic links"),
        (tmp_path / ("n" * 256), "File name too long"),
        (tmp_path / "nul\0", "null"),
        (
            Path("/proc/state"),
            "(No such file or directory|Permission denied)",
        ),  # the former for root
    ]:
        for write in (AsyncPrefetcherState.check_writable, OLD.save):
            with pytest.raises(CheckpointError, match=f"can't write .*{reason}"):
                await write(path)
    assert only(tmp_path) == {"file": b"x"}
    assert only(tmp_path / "folder") == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is permitted to root")
def test_a_directory_without_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        files.check_writable(tmp_path / "state")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES])
def test_each_system_call_of_the_check_that_fails_is_reported_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    OLD._save(tmp_path / "state")
    done: list[str] = []
    with steps(done.append):
        files.check_writable(tmp_path / "state")
    assert [name for name in done if name != "close of the directory"] == [
        *("open", "write", "fsync", "open of the directory", "fsync of the directory")
    ]
    for failing in range(len(done)):
        left = iter(range(len(done)))

        def step(name: str, left: Any = left, failing: int = failing) -> None:
            if next(left, None) == failing:
                raise OSError(number, os.strerror(number))

        # Some file systems can't sync a directory. save() ignores this error, too.
        fails = not (number == errno.EACCES and "directory" in done[failing])
        with steps(step):
            if fails:
                with pytest.raises(CheckpointError, match=f"can't write .*state.*{os.strerror(number)}"):
                    files.check_writable(tmp_path / "state")
            else:
                files.check_writable(tmp_path / "state")
        assert only(tmp_path) == {"state": OLD.to_bytes()}


def test_the_training_example_reports_a_full_disk_before_its_first_step(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("to be or not to be\n" * 30)
    (corpus / "b.txt").write_text("that is the question\n" * 30)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(corpus), "--out", str(tmp_path / "out"), "--steps", "9"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=no_room,
    )
    assert done.returncode == 2, done.stderr
    assert "can't write" in done.stderr
    assert "loader.safetensors': File too large" in done.stderr
    assert only(tmp_path / "out") == {}
