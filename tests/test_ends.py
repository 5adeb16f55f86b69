"""A program ends soon, and no worker outlives it, in whatever way it ends. These are whole programs, as users run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import programs
from tests.processes import ENVIRONMENT, ROOT, gone
from tests.programs import FOREVER, IMPORTS

pytestmark = pytest.mark.xdist_group("machine")


def run(tmp_path, body, *arguments, **how):
    ended = programs.run(tmp_path, body, "stream", *arguments, **how)
    return ended.code, ended.out, ended.err


FORGOTTEN = {
    # The worker ends before the loop.
    "collected while the loop runs": """
    del loader
    gc.collect()
    while len(asyncio.all_tasks()) > 1 or multiprocessing.active_children():
        await asyncio.sleep(0)
    print("gone in time")
if __name__ == "__main__":
    asyncio.run(main())
""",
    # The worker has ended when asyncio.run returns.
    "still referenced when asyncio.run ends": """
if __name__ == "__main__":
    asyncio.run(main())
    print("gone in time" if not multiprocessing.active_children() else "alive")
""",
    # The worker does not delay the interpreter's exit.
    "on a loop that is just dropped": """
if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    print("gone in time")
""",
}


@pytest.mark.parametrize("how", FORGOTTEN)
@pytest.mark.parametrize("worker", ["Count(10**6)", "Forever()"])
def test_a_forgotten_loader_warns_and_leaves_no_process(tmp_path, how, worker):
    body = (
        FOREVER
        + f"""
async def main():
    global loader
    loader = AsyncPrefetcher({worker})
    await anext(loader)
    print(*pids(loader), flush=True)
"""
    )
    with programs.start(tmp_path, body + FORGOTTEN[how].replace("del loader", "globals().pop('loader')")) as process:
        pid = int(programs.read_line(process))
        ended = programs.end(process)
    assert ended.seconds < 4  # the library promises two seconds; the rest allows for a slow machine
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert ended.out.strip() == "gone in time"
    if "dropped" not in how:
        assert "ResourceWarning" in ended.err
        assert "was never closed: use 'async with', or await aclose()" in ended.err
    assert gone(pid, 1)


BUSY = (
    FOREVER
    + """
async def main():
    global loader
    loader = AsyncPrefetcher(Forever())
    await anext(loader)
    print(*pids(loader), flush=True)
    HOW
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores SIGINT in background jobs
    asyncio.run(main())
"""
)


@pytest.mark.parametrize(
    ("how", "code"),
    [("return", 0), ("raise ValueError('in the body')", 1), ("sys.exit(3)", 3), ("await anext(loader)", -2)],
)
def test_a_program_with_a_busy_worker_ends_soon(tmp_path, how, code):
    with programs.start(tmp_path, BUSY.replace("HOW", how)) as process:
        pid = int(programs.read_line(process))
        if code == -2:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the workers, too
        ended = programs.end(process)
    assert ended.seconds < 4  # the worker has one second of grace; the rest allows for a slow machine
    assert ended.code == code, ended.err
    assert ("KeyboardInterrupt" in ended.err) == (code == -2)
    assert gone(pid, 1)


def test_the_error_of_a_script_without_a_main_guard_says_what_to_write(tmp_path):
    code, _, err = run(
        tmp_path,
        """
async def main():
    async with AsyncPrefetcher(Count(3)) as loader:
        async for _ in loader: pass
asyncio.run(main())
""",
        header=IMPORTS,
    )
    assert code == 1
    assert "It died before it could say hello" in err
    assert err.count("Traceback") == 1  # the program's own: the worker ended with one line
    assert "`if __name__ == '__main__':`" in err


def test_the_error_names_a_state_class_that_workers_can_not_import(tmp_path):
    code, _, err = run(
        tmp_path,
        """
if __name__ == "__main__":
    class HiddenState(IteratorState, kind="program.hidden"):
        def build(self): return Count(1)
    class Hidden(StatefulIterator):
        def get_state(self): return HiddenState()
        def create_iter(self): yield 1
    async def main():
        async with AsyncPrefetcher(Hidden()) as loader:
            async for _ in loader: pass
    asyncio.run(main())
""",
    )
    assert code == 1
    assert "ProducerError: shard 0, position 0 (build)" in err
    assert "HiddenState" in err


def test_the_error_of_a_program_on_standard_input_asks_for_a_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-"],
        input=IMPORTS
        + """
class InlineState(IteratorState, kind="program.inline"):
    def build(self): return Count(1)
class Inline(StatefulIterator):
    def get_state(self): return InlineState()
    def create_iter(self): yield 1
async def main():
    async with AsyncPrefetcher(Inline()) as loader:
        async for _ in loader: pass
if __name__ == "__main__":
    asyncio.run(main())
""",
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "must live in a file" in done.stderr or "InlineState" in done.stderr


def test_a_program_that_reads_to_the_end_needs_no_close(tmp_path):
    code, out, err = run(
        tmp_path,
        """
async def main():
    global loader
    loader = AsyncPrefetcher(Count(3))
    print([n async for n in loader])
if __name__ == "__main__":
    asyncio.run(main())
""",
    )
    assert (code, out.strip(), err) == (0, "[0, 1, 2]", "")


def test_retry_on_knows_the_classes_of_the_script(tmp_path):
    code, out, err = run(
        tmp_path,
        """
class FlakyError(Exception):
    pass
class FlakyState(IteratorState, kind="program.flaky"):
    flag: str
    position: Position[int] = 0
    def build(self): return Flaky(self)
class Flaky(StatefulIterator):
    def __init__(self, state): self.state, self.position = state, state.position
    def get_state(self): return self.state.model_copy(update={"position": self.position})
    def create_iter(self):
        while self.position < 3:
            if self.position == 1 and not os.path.exists(self.state.flag):
                open(self.state.flag, "w").close()
                raise FlakyError("once")
            self.position += 1
            yield self.position - 1
async def main():
    async with AsyncPrefetcher(Flaky(FlakyState(flag=sys.argv[2])), retry_on=FlakyError) as loader:
        print([n async for n in loader])
if __name__ == "__main__":
    asyncio.run(main())
""",
        str(tmp_path / "flag"),
    )
    assert code == 0, err
    assert out.strip() == "[0, 1, 2]"
    assert "__main__.FlakyError: once; retry 1 of 5" in err
