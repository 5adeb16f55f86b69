"""What tests see of the library's inside. No other module of the tests imports a private name of it."""

from asyncprefetch import _codec
from asyncprefetch._checkpoint import container, save_order
from asyncprefetch._checkpoint.container import pack, pack_parts, parse_json, unpack, unpack_file, write_file
from asyncprefetch._checkpoint.save_order import Turn
from asyncprefetch._codec import MAX_DEPTH, decode, encode, encode_state, explain_unsupported
from asyncprefetch._codec.registry import find_kind, find_tag, kind_of, tag_of
from asyncprefetch._loop import (
    delivery,
    error_reports,
    loader_socket,
    pull_transport,
    retries,
    shutdown,
    stream_transport,
)
from asyncprefetch._loop.core import Core
from asyncprefetch._loop.ledger import Ledger
from asyncprefetch._loop.lent_slots import LentSlots, OnSlot
from asyncprefetch._loop.loader_socket import LoaderSocket
from asyncprefetch._loop.options import Options
from asyncprefetch._loop.pull_transport import PullTransport
from asyncprefetch._loop.retries import Retries
from asyncprefetch._loop.scheduler import AsReady, InOrder
from asyncprefetch._loop.shutdown import in_daemon_thread
from asyncprefetch._loop.snapshot import ShardSnapshot, Snapshot
from asyncprefetch._loop.states import (
    LOADER,
    RUN,
    LoaderEvent,
    LoaderState,
    RunEvent,
    RunState,
    WrongTransitionError,
    advance,
)
from asyncprefetch._loop.threads import in_thread
from asyncprefetch._process import context, limits, out_of_memory
from asyncprefetch._process.context import WorkerProcess
from asyncprefetch._wire import fingerprint as fingerprint_module
from asyncprefetch._wire import item_pickler, records, shared_memory
from asyncprefetch._wire.fingerprint import fingerprint
from asyncprefetch._wire.item_layout import MAX_LAYOUTS, flatten
from asyncprefetch._wire.item_pickler import MIN_PLACED, ItemPickler
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
    ShardStart,
    Start,
    State,
    Stop,
    Tally,
)
from asyncprefetch._wire.payloads import Framed
from asyncprefetch._wire.records import NO_PLACE, RecordReader, Release
from asyncprefetch._wire.remote_errors import RemoteError, class_name
from asyncprefetch._wire.shared_memory import PROT_NONE, PROT_READ_WRITE, Geometry, Segment
from asyncprefetch._worker import counters, producer, pull_runner, use_after_yield, worker_socket
from asyncprefetch._worker.pull_runner import PullRunner
from asyncprefetch._worker.slot_allocator import SlotAllocator
from asyncprefetch._worker.worker_socket import WorkerSocket
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._position_digest import witness_of
from asyncprefetch.iterators._random import permutation, uniforms
from asyncprefetch.iterators.text import _blocks, _files
from asyncprefetch.iterators.text._formats import columnar, jsonl, parquet
from asyncprefetch.iterators.text._formats.columnar import Columns
from asyncprefetch.iterators.text._tokens import ANCHOR_EVERY
