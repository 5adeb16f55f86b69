"""The private names of the library that tests use. No other module of the tests imports a private name."""

from asyncprefetch import _codec
from asyncprefetch._checkpoint import container, files, save_order
from asyncprefetch._checkpoint import state as checkpoint_state
from asyncprefetch._checkpoint.container import pack, pack_parts, parse_json, unpack
from asyncprefetch._checkpoint.files import unpack_file, write_file
from asyncprefetch._checkpoint.save_order import Turn
from asyncprefetch._codec import MAX_DEPTH, decode, encode, encode_state, explain_unsupported
from asyncprefetch._codec.registry import find_kind, find_tag, kind_of, tag_of
from asyncprefetch._codec.tensors import rebuild_tensor
from asyncprefetch._loop import (
    call_queue,
    delivery,
    error_reports,
    executor_faults,
    executor_life,
    loader_socket,
    retries,
    stream_transport,
    threads,
    worker_end,
    worker_handle,
)
from asyncprefetch._loop.core import Core
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.lent_slots import LentSlots, OnSlot
from asyncprefetch._loop.loader_socket import LoaderSocket
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.pull_transport import PullTransport
from asyncprefetch._loop.retries import Retries
from asyncprefetch._loop.run_credit import RunCredit
from asyncprefetch._loop.scheduler import AsReady, InOrder
from asyncprefetch._loop.snapshot import Ready, ShardSnapshot, Snapshot
from asyncprefetch._loop.start_clock import StartClock
from asyncprefetch._loop.states import (
    CALLS,
    LOADER,
    PULL,
    RUN,
    CallsEvent,
    CallsState,
    LoaderEvent,
    LoaderState,
    PullEvent,
    PullState,
    RunEvent,
    RunState,
)
from asyncprefetch._loop.threads import MAX_CALLS, in_file_thread, in_thread
from asyncprefetch._loop.worker_end import in_daemon_thread
from asyncprefetch._process import limits, out_of_memory, worker_process
from asyncprefetch._process.states import PROCESS, ProcessState
from asyncprefetch._wire import frames, item_layout, item_pickler, records, shared_memory
from asyncprefetch._wire.calls import Answer, Call, Refusal
from asyncprefetch._wire.fingerprint import fingerprint
from asyncprefetch._wire.item_layout import MAX_ARRAYS, MAX_LAYOUTS, MIN_PLACED, Layouts
from asyncprefetch._wire.item_pickler import ItemPickler
from asyncprefetch._wire.messages import (
    Credit,
    Death,
    EndOfShard,
    Failed,
    Final,
    FromWorker,
    Hello,
    Item,
    Log,
    Replaying,
    Setup,
    SetupFailed,
    ShardStart,
    Start,
    State,
    Stop,
    Tally,
)
from asyncprefetch._wire.payloads import Framed
from asyncprefetch._wire.records import NO_SLOT, RecordReader, Release
from asyncprefetch._wire.remote_errors import RemoteError, class_name
from asyncprefetch._wire.shared_memory import PROT_NONE, PROT_READ_WRITE, Geometry, Segment
from asyncprefetch._wire.transitions import WrongTransitionError, advance
from asyncprefetch._worker import (
    counters,
    library_threads,
    producer,
    pull_runner,
    shard,
    use_after_yield,
    user_code,
    worker_socket,
)
from asyncprefetch._worker.library_threads import LibraryThreads
from asyncprefetch._worker.outlet import Collecting
from asyncprefetch._worker.pull_runner import PullRunner
from asyncprefetch._worker.slot_allocator import SlotAllocator
from asyncprefetch._worker.slots import Slots, SlotState
from asyncprefetch._worker.worker_socket import WorkerSocket
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._position_digest import position_digest
from asyncprefetch.iterators._random import permutation, uniforms
from asyncprefetch.iterators.text import _blocks, _files
from asyncprefetch.iterators.text._formats import columnar, compressed, jsonl, parquet
from asyncprefetch.iterators.text._formats.columnar import Columns
from asyncprefetch.iterators.text._tokens import ANCHOR_EVERY


def delivery_of(loader):
    """Return the delivery of a loader."""
    return loader._core._delivery


def ledger_of(loader, number):
    """Return a loader's ledger of a shard."""
    return loader._core._ledgers[number]


def handle_of(loader, worker=0):
    """Return a loader's handle of a worker."""
    return loader._core._workers[worker]


def transport_of(loader, worker=0):
    """Return the transport to a worker."""
    return handle_of(loader, worker)._transport


def shutdown_of(loader):
    """Return the shutdown of a loader."""
    return loader._core._shutdown


def snapshot_is_pending(loader):
    """Return whether a snapshot was requested and is not complete yet."""
    return loader._core._snapshots.pending


def memory_limiter():
    """Return the running loop's limiter of calls that work in memory."""
    return threads._for_memory.get()


def file_limiter():
    """Return the running loop's limiter of calls that read or write files."""
    return threads._for_files.get()
