"""A program ends within two seconds and leaves nothing, in whatever way it ends. See also ``tests/test_ends.py``."""

from __future__ import annotations

import os
import signal

import pytest

from tests import programs

pytestmark = pytest.mark.xdist_group("machine")

# Seconds from the cause to the end of the program. A busy worker may use one of them to close its iterators.
WITHIN = 2.0

TRANSPORTS = pytest.mark.parametrize("transport", ["stream", "pull"])
WORKERS = pytest.mark.parametrize("worker", ["Count(10**6)", "Forever()"])

FOREVER = (
    programs.FOREVER
    + """
def make(n=8):
    return AsyncPrefetcher([WORKER, WORKER], num_workers=2, n_batches_to_prefetch=n, workers=FACTORY)

def ready():
    print("ready", flush=True)

async def left(loader, before):
    # This ignores the loop's own threads and descriptors.
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    threads = [t for t in threading.enumerate() if t.name.startswith("asyncprefetch")]
    [t.join(1) for t in threads]  # a thread may still execute its last line
    threads = [t.name for t in threads if t.is_alive()]
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("memfd:asyncprefetch")
    more = len(descriptors()) - before
    print(loader.statistics().state, len(tasks), multiprocessing.active_children(), threads, maps, more <= 6, flush=True)
"""
)

NOTHING_IS_LEFT = "closed 0 [] [] 0 True"

MAIN = """
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores SIGINT in background jobs
    asyncio.run(main())
    print("after", flush=True)
"""


def end_of(tmp_path, transport, worker, body, *, cause=None, main=MAIN):
    """Run a program, send the signal ``cause`` when it is ready, and return how it ended."""
    body = FOREVER.replace("WORKER", worker) + body + main
    with programs.start(tmp_path, body, transport) as process:
        assert programs.read_line(process) == "ready\n", process.stderr.read()
        if cause is not None:
            os.killpg(process.pid, cause)
        ended = programs.end(process)
    assert ended.seconds < WITHIN, ended
    assert "Task was destroyed" not in ended.err
    assert "never retrieved" not in ended.err
    return ended


CANCELLED = """
    async def train():
        async with loader:
            assert [await anext(loader), await anext(loader)] == [0, 0]
            ready()
            waiting.set()
            while True:
                await CALL
    waiting = asyncio.Event()
    task = asyncio.create_task(train())
    await waiting.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
"""

# Each program leaves the block in its own way. A worker that computes without end yields its first batch at once.
WAYS = {
    "break": """
    async with loader:
        async for batch in loader:
            ready()
            break
""",
    "exception": """
    try:
        async with loader:
            async for batch in loader:
                ready()
                raise LookupError
    except LookupError:
        pass
""",
    "cancellation": CANCELLED.replace("CALL", "anext(loader)"),
    "cancellation of get_state": CANCELLED.replace("CALL", "loader.get_state()"),
    "a scope that is cancelled around __aexit__": """
    with anyio.CancelScope() as scope:
        async with loader:
            await anext(loader)
            ready()
            asyncio.get_running_loop().call_soon(scope.cancel)
    assert loader.statistics().state == "closed"
""",
    "a scope that was cancelled before __aexit__": """
    with anyio.CancelScope() as scope:
        async with loader:
            await anext(loader)
            ready()
            scope.cancel()
    assert loader.statistics().state == "closed"
""",
}


# A program with a busy worker takes a second.
BUSY = ("break", "cancellation", "a scope that is cancelled around __aexit__")


@TRANSPORTS
@WORKERS
def test_a_block_that_is_left_leaves_nothing(tmp_path, transport, worker):
    ways = WAYS if worker != "Forever()" else {way: WAYS[way] for way in BUSY}
    body = "began = 0.0\ndef ready():\n    global began\n    began = time.monotonic()\n"
    for n, way in enumerate(ways.values()):
        body += f"async def way_{n}():\n    before = len(descriptors())\n    loader = make()\n{way}\n    batch = None\n"
        body += "    seconds = time.monotonic() - began\n    await left(loader, before)\n    return seconds\n"
    body += f"""
async def main():
    seconds = [await way() for way in ({", ".join(f"way_{n}" for n in range(len(ways)))},)]
    print("ready", max(seconds), flush=True)
"""
    with programs.start(tmp_path, FOREVER.replace("WORKER", worker) + body + MAIN, transport) as process:
        ended = programs.end(process)
    *left, seconds, after = ended.out.splitlines()
    assert (ended.code, ended.err, left, after) == (0, "", [NOTHING_IS_LEFT] * len(ways), "after")
    assert float(seconds.removeprefix("ready ")) < WITHIN


INTERRUPTED = {
    "waiting for a batch": "await anext(loader); await anext(loader); ready(); await anext(loader); await asyncio.sleep(60)",
    "waiting for a state": """
        await anext(loader)
        await anext(loader)
        ready()
        while True: await loader.get_state()""",
    "computing": """
        await anext(loader)
        await anext(loader)
        ready()
        while True: pass""",
}


@TRANSPORTS
@pytest.mark.parametrize(
    ("where", "worker"),
    [*((where, "Count(10**6)") for where in INTERRUPTED), ("waiting for a batch", "Forever()")],
)
def test_ctrl_c_ends_the_program_with_keyboard_interrupt(tmp_path, transport, worker, where):
    if (
        where == "computing"
    ):  # the loop awaits nothing, and without the handler of asyncio.run the first signal interrupts
        main = MAIN.replace(
            "asyncio.run(main())", "asyncio.get_event_loop_policy().new_event_loop().run_until_complete(main())"
        )
    else:
        main = MAIN
    body = f"async def main():\n    async with make(2) as loader:\n        {INTERRUPTED[where].strip()}\n"
    ended = end_of(tmp_path, transport, worker, body, cause=signal.SIGINT, main=main)
    assert ended.code == -signal.SIGINT, ended
    assert ended.err.rstrip().endswith("KeyboardInterrupt")
    assert ended.err.count("Traceback") <= 2  # the cancellation may have one of its own; a worker has none
    assert "after" not in ended.out


@TRANSPORTS
@pytest.mark.parametrize("worker", ["Forever()"])
def test_asyncio_run_that_ends_under_a_task_that_reads_leaves_nothing(tmp_path, transport, worker):
    body = """
async def read(loader):
    async with loader:
        async for batch in loader:
            if not first.done():
                first.set_result(None)

async def main():
    global first, task
    first = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(read(make()))
    await first
    ready()
"""
    ended = end_of(tmp_path, transport, worker, body)
    assert (ended.code, ended.out, ended.err) == (0, "after\n", "")


@pytest.mark.parametrize("arguments", [["stream"], ["pull"], ["pull", "inline"]], ids="-".join)
def test_a_loader_whose_loop_was_closed_during_a_call_is_closed_on_another(tmp_path, arguments):
    """A program closed its loop without ending its tasks, so these tasks wait for ever."""
    body = """
import logging, uvloop
from pathlib import Path
from asyncprefetch.executors import InlineExecutor

logging.disable()  # asyncio logs tasks that were destroyed

def report(unraisable):  # asyncio raises these errors for awaits that were destroyed, because their loop is closed
    if unraisable.exc_type not in (RuntimeError, RuntimeWarning):
        print(unraisable)

sys.unraisablehook = report

async def read(loader):
    async for batch in loader: pass

async def retire(loader):
    while loader.statistics().workers[0].state != "retired":
        await asyncio.sleep(0)

CALLS = {
    "nothing": lambda loader: asyncio.sleep(0),
    "a wait for a batch": read,
    "a wait for a state": lambda loader: loader.get_state(),
    "a close": lambda loader: loader.aclose(),
    "the end of a worker": retire,
}

async def begin(loader, call, turns):
    await anext(loader), await anext(loader)
    if CALLS[call] is retire:
        await retire(loader)
    asyncio.create_task(CALLS[call](loader))
    for _ in range(turns): await asyncio.sleep(0)
    kept.append(asyncio.all_tasks())

async def close(loader, *what):
    closings = [asyncio.create_task(loader.aclose()) for _ in range(2)]
    done, _ = await asyncio.wait(closings, timeout=8)
    if len(done) < 2:
        print("hangs", *what, flush=True)
        os._exit(1)
    await asyncio.gather(*closings)

def main():
    global kept
    kept = []  # a task that is destroyed could end its worker
    factory = (lambda worker: InlineExecutor()) if sys.argv[2:] else FACTORY
    before = None
    for new in (asyncio.new_event_loop, uvloop.new_event_loop):
        for call in CALLS:
            for turns in (*range(7), 10):
                loader = AsyncPrefetcher(
                    Count(3 if CALLS[call] is retire else 10**6), n_batches_to_prefetch=2, workers=factory
                )
                loop = new()
                loop.run_until_complete(begin(loader, call, turns))
                loop.close()
                asyncio.run(close(loader, call, turns))
                before = len(descriptors()) if before is None else before
    asyncio.run(left(loader, before))
    loop = loader = kept = None
    gc.collect()
    sys.stdout.flush()
    os._exit(0)  # an anyio thread of a closed loop waits for ever

if __name__ == "__main__":
    main()
"""
    ended = programs.run(tmp_path, FOREVER.replace("WORKER", "None") + body, *arguments)
    assert (ended.code, ended.out) == (0, NOTHING_IS_LEFT + "\n"), ended
