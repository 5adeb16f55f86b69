"""The loader and its state: each builds the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from asyncprefetch import _loop
from asyncprefetch._checkpoint import container, files, state
from asyncprefetch._checkpoint.save_order import Turn
from asyncprefetch._loop.options import MOST_BATCHES_TO_PREFETCH, Options, Resources, pickle_for_worker
from asyncprefetch._loop.snapshot import ShardSnapshot, Snapshot
from asyncprefetch._process.not_copied import NotCopied
from asyncprefetch._process.process_workers import ProcessWorkers
from asyncprefetch._wire.messages import ShardStart

# The fork server imports the main module, and with it this one: the workers that it forks then find their code loaded.
from asyncprefetch._worker import bootstrap, pull_runner, stream_runner  # noqa: F401
from asyncprefetch.base import IteratorState, StatefulIterator
from asyncprefetch.errors import CheckpointError
from asyncprefetch.statistics import Statistics, explain

T_co = TypeVar("T_co", covariant=True)


class AsyncPrefetcher(NotCopied, Generic[T_co]):
    """Makes the items of stateful iterators ahead of time, in worker processes, for one asynchronous consumer.

    ::

        async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=8) as loader:
            async for batch in loader:
                ...
                state = await loader.get_state()

    The workers start when ``async with`` is entered, or at the first batch. They end at the end of the stream, when the
    ``async with`` is left, or by ``aclose()``.

    Order: with ``in_order`` the shards take strict turns, and an exhausted shard drops out at its turn. Without it, batches
    come as they are ready. Each shard's own sequence keeps its order either way, whatever the number of workers.

    Loss: a call that is cancelled or times out takes nothing. The loader starts a worker that dies again, from its last
    state, and skips the items that it received before. Errors come after the batches that were received before them.

    Args:
        base_iterator: one stateful iterator, or a sequence of them: the shards. The constructor calls ``get_state()`` and
            does nothing else with the iterator.
        n_batches_to_prefetch: the most batches that are made and not delivered, over all shards; up to 1,000,000.
        num_workers: processes to host the shards; by default as many as there are shards and usable CPUs.
        in_order: whether the shards take strict turns.
        max_restarts: how often in a row, without a batch in between, the loader starts a dead worker again.
        retry_on: exception classes for which an item is drawn again, from the last known state, up to five times with
            growing pauses (0.1 to 1.6 s).
        stall_timeout: seconds without a message until a worker that has work counts as stalled.
        start_timeout: seconds for a worker to start, counted as if it had a core of its own: while 24 workers start on 2
            cores, for example, they pass 12 times more slowly.
        workers: a :class:`ProcessWorkers`, with options for the worker processes; or a function that takes the worker's
            number and returns an executor of one worker, which runs calls in their order. The loader shuts the executor
            down.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or value; the message says which and what to do.
    """

    _instead_of_a_copy = "take a state with get_state(), copy that, and call its build() for a second loader"

    def __init__(
        self,
        base_iterator: StatefulIterator[T_co] | Sequence[StatefulIterator[T_co]],
        *,
        n_batches_to_prefetch: int = 8,
        num_workers: int | None = None,
        in_order: bool = True,
        max_restarts: int = 3,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        stall_timeout: float | None = None,
        start_timeout: float = 60.0,
        workers: ProcessWorkers | Callable[[int], Executor] | None = None,
    ) -> None:
        options = Options(
            n_batches_to_prefetch=n_batches_to_prefetch,
            num_workers=num_workers,
            max_restarts=max_restarts,
            retry_on=retry_on,
            stall_timeout=stall_timeout,
            start_timeout=start_timeout,
            workers=workers,
        )
        if not isinstance(in_order, bool):
            raise TypeError(f"in_order must be True or False, not {in_order!r}")
        states = _states_of(base_iterator, "base_iterator")
        shards = tuple(
            ShardSnapshot(i, ShardStart(pickle_for_worker(iterator_state, f"the state of shard {i}"), 0, ()), False, 0)
            for i, iterator_state in enumerate(states)
        )
        self._set_up(Snapshot(in_order, 0, shards, ()), len(shards), options)

    def _set_up(self, origin: Snapshot, num_shards: int, options: Options) -> None:
        options.pickled_initializer()
        self._num_shards = num_shards
        self._core = _loop.Core(origin, options)
        weakref.finalize(self, self._core.abandon, repr(self)).atexit = False

    @classmethod
    def _restored(cls, origin: Snapshot, num_shards: int, options: Options) -> Self:
        loader = cls.__new__(cls)
        loader._set_up(origin, num_shards, options)
        return loader

    def __repr__(self) -> str:
        return f"<AsyncPrefetcher num_shards={self._num_shards} at {id(self):#x}>"

    async def __aenter__(self) -> Self:
        self._core.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, T_co]:
        """The next item. A call that is cancelled or times out has taken nothing.

        Raises:
            StopAsyncIteration: all shards are exhausted; again at every further call.
            ProducerError, WorkerDiedError, ProducerStalledError: in the place of the batch that could not be made,
                after all that come before it; again at every further call.
            PrefetcherBusyError: another call is waiting, or the loader belongs to another event loop.
            PrefetcherClosedError: the loader is closed.
        """
        return self._core.next()

    async def get_state(self, *, grace: float | None = None) -> AsyncPrefetcherState:
        """The state of the whole loader. The loader that it builds delivers exactly what was not delivered yet.

        It ends the workers' runs, waits until each has sent its states and its final sentinel, takes states and buffered
        batches in one step, and starts the next runs. It can be called at any time before ``aclose()``: before the first
        batch, after the end, after an error (the state then resumes at the item that failed), and while another task waits
        for a batch. Call it in the task that consumes the batches: only there the state matches what the task did with them.

        A call that is cancelled has changed nothing. The call checks only the batches that are buffered at that moment. The
        loader also checks the first batch of each shard, and warns (``CheckpointWarning``) if a checkpoint can't hold it.

        Args:
            grace: the most seconds to wait for draws under way. For a worker that still draws an item then, the state holds
                the last known state and the number of items to skip. By default the call waits for the longest draw.

        Raises:
            CheckpointError: a buffered batch holds what a checkpoint can't hold; the message names its path.
            PrefetcherClosedError: the loader is closed.
            PrefetcherBusyError: the loader belongs to another event loop.
            ValueError: ``grace`` is negative.
        """
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be a number of seconds from 0, not {grace!r}")
        snapshot = await self._core.snapshot(grace)
        options, num_shards = self._core.options, self._num_shards
        return await _loop.in_thread(AsyncPrefetcherState._of, snapshot, num_shards, options)

    def statistics(self) -> Statistics:
        """Counts and times at this moment: batches, waits, workers."""
        return self._core.statistics()

    def explain(self) -> str:
        """Where the time goes, in words."""
        return explain(self.statistics())

    async def aclose(self) -> None:
        """Close the iterators, end the workers, and wait until they are gone. A worker that is busy for a second is killed.

        You may call it again. Calls that wait for a batch or a state raise ``PrefetcherClosedError``.

        Raises:
            PrefetcherBusyError: the loader belongs to another event loop, which is not closed. Nothing was changed. If that
                loop is closed, the loader can be closed on any other.
        """
        await self._core.aclose()


def _states_of(pipeline: Any, argument: str) -> list[IteratorState]:
    iterators = [pipeline] if isinstance(pipeline, StatefulIterator) else pipeline
    if not isinstance(iterators, Sequence) or isinstance(iterators, str | bytes):
        raise TypeError(
            f"{argument} must be a StatefulIterator or a sequence of them, not {pipeline!r:.80}; for a plain iterable see "
            "asyncprefetch.iterators.from_iterable"
        )
    if not iterators:
        raise ValueError(f"{argument} is an empty sequence: a loader needs at least one shard")
    states = []
    for i, iterator in enumerate(iterators):
        if not isinstance(iterator, StatefulIterator):
            raise TypeError(f"shard {i} must be a StatefulIterator, not {iterator!r:.80}")
        iterator_state = iterator.get_state()
        if not isinstance(iterator_state, IteratorState):
            raise TypeError(f"shard {i}: get_state() must return an IteratorState, not {iterator_state!r:.80}")
        states.append(iterator_state)
    return states


class AsyncPrefetcherState(BaseModel):
    """A loader's state, as data: :meth:`build` gives a loader whose stream is exactly the rest.

    It is a value: nothing that happens to the loader or to delivered batches changes it, and you may copy and pickle it.
    It holds iterator states and batches encoded. They become objects again only where a loader is built.

    :meth:`from_json`, :meth:`from_bytes` and :meth:`load` raise ``CheckpointError`` for anything that is not a whole
    checkpoint. pydantic's own ``model_validate`` raises its ``ValidationError``.

    Attributes:
        version: the version of this format.
        in_order: whether the shards take strict turns.
        num_shards: the global count of shards. The state may hold a part of them.
        due: global number of the shard whose turn it is.
        shards: what is known of each shard.
        buffer: the batches that were made and not delivered, in order of delivery within each shard.
        leaves: the bytes of arrays, to which ``shards`` and ``buffer`` refer by index.
        n_batches_to_prefetch: the loader's argument, which is the default of :meth:`build`.
        num_workers: the same for the number of workers.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(**state.CONFIG, ser_json_bytes="base64", val_json_bytes="base64")
    VERSION: ClassVar[int] = 1

    version: int = VERSION
    in_order: bool
    num_shards: int = Field(ge=1, le=state.MOST_SHARDS)
    due: int
    shards: tuple[state.ShardState, ...] = Field(min_length=1, strict=False)
    buffer: tuple[state.BufferedBatch, ...] = Field(strict=False)
    leaves: tuple[bytes, ...] = Field(strict=False, repr=False)
    n_batches_to_prefetch: int = Field(ge=1, le=MOST_BATCHES_TO_PREFETCH)
    num_workers: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version != self.VERSION:
            raise ValueError(f"version {self.version} of the state, where this asyncprefetch knows {self.VERSION}")
        state.check(self)
        return self

    @classmethod
    def _of(cls, snapshot: Snapshot, num_shards: int, options: Options) -> Self:
        return cls(**state.fields_of(snapshot, num_shards, options))

    @property
    def shard_ids(self) -> tuple[int, ...]:
        """The global numbers of the shards, in their order."""
        return tuple(shard.shard_id for shard in self.shards)

    @property
    def delivered(self) -> state.Delivered:
        """Batches delivered, in all and by global shard number, over the whole life of the stream."""
        by_shard = {shard.shard_id: shard.delivered for shard in self.shards}
        return state.Delivered(sum(by_shard.values()), by_shard)

    def iterator_state(self, shard: state.ShardState) -> IteratorState:
        """The state of a shard's iterator, as an object.

        Args:
            shard: one of ``shards``.

        Raises:
            CheckpointError: the class is not registered here, or is not a state; the message names it.
        """
        return state.iterator_state(self, shard)

    def build(self, **resources: Unpack[Resources]) -> AsyncPrefetcher[Any]:
        """A loader that goes on from here. Its first batches are those that the state holds, while the workers start.

        Args:
            resources: any keyword of :class:`AsyncPrefetcher` but ``base_iterator`` and ``in_order``, which shape the
                stream. The number of workers and of batches to prefetch are kept if they are not given; all others
                have their defaults.

        Raises:
            CheckpointError: a class or function that the state names is not registered here, or can't be sent to a worker.
            TypeError, ValueError: as for :class:`AsyncPrefetcher`.
        """
        unknown = sorted(set(resources) - Resources.__annotations__.keys())
        if unknown:
            raise TypeError(
                f"build() takes no {', '.join(unknown)}: it takes {', '.join(Resources.__annotations__)}. "
                "Everything that shapes the stream is in the state"
            )
        # A state that holds a part of the shards may hold fewer than there were workers for all of them.
        workers = None if self.num_workers is None else min(self.num_workers, len(self.shards))
        kept: Resources = {"n_batches_to_prefetch": self.n_batches_to_prefetch, "num_workers": workers}
        kept.update(resources)
        return AsyncPrefetcher._restored(state.to_snapshot(self), self.num_shards, Options(**kept))

    # ----------------------------------------------------------------------------------------------------- JSON, bytes

    def to_json(self) -> str:
        """The state as JSON text, arrays as base64. The same text as ``model_dump_json()``."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The state that :meth:`to_json` wrote. Reading it runs no code that the text names.

        Raises:
            CheckpointError: the text is damaged, of a newer version, or names what is not registered here.
        """
        document = container.parse_json(text)
        return state.read(lambda: cls.model_validate_json(text), document, cls.VERSION)

    def to_bytes(self) -> bytes:
        """The state as one safetensors container, with a checksum.

        Raises:
            CheckpointError: the part that is not arrays is larger than the container's header may be (100 MB).
        """
        return container.pack(self._document(), self.leaves, version=self.VERSION)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that :meth:`to_bytes` wrote. Reading it runs no code that the data names.

        Raises:
            CheckpointError: it is damaged, truncated, foreign, of a newer version, or names what is not registered.
        """
        return cls._of_parts(*container.unpack(data, version=cls.VERSION))

    def _document(self) -> dict[str, JsonValue]:
        return self.model_dump(mode="json", exclude={"leaves"})

    @classmethod
    def _of_parts(cls, document: dict[str, JsonValue], leaves: list[bytes]) -> Self:
        if "leaves" in document:
            raise CheckpointError("malformed checkpoint: leaves inside of the document")
        return state.read(lambda: cls.model_validate({**document, "leaves": tuple(leaves)}), document, cls.VERSION)

    # ------------------------------------------------------------------------------------------------------------ files

    async def save(self, path: str | PathLike[str]) -> None:
        """Write what :meth:`to_bytes` returns to ``path``, atomically: at any moment the old file or the new one is there.

        Only the owner can read the file. A thread writes it. A save that is cancelled after its thread has begun completes.
        If one process saves several times to one path, the file of the last call stays, in whatever order the saves end.

        Raises:
            CheckpointError: the file can't be written; the old file is as it was.
        """
        with Turn() as turn:
            await _loop.in_file_thread(self._save, path, turn)

    def _save(self, path: str | PathLike[str], turn: Turn | None = None) -> None:
        with turn or Turn() as taken:  # a save() that was cancelled has left its turn
            parts = container.pack_parts(self._document(), self.leaves, version=self.VERSION)
            files.write_file(path, *parts, turn=taken)

    @classmethod
    async def load(
        cls,
        path: str | PathLike[str],
        expect: StatefulIterator[Any] | Sequence[StatefulIterator[Any]] | None = None,
    ) -> Self:
        """Read what :meth:`save` wrote, in a thread.

        Args:
            path: the file.
            expect: the pipeline that the state is meant for, as it would be given to :class:`AsyncPrefetcher`. Every
                field of its states that is not marked ``Position`` must be as it is in the file.

        Raises:
            CheckpointError: the file can't be read, is damaged, truncated, foreign or newer, names what is not
                registered here, or was saved from another pipeline than ``expect``: the message lists the differing fields.
        """
        expected = None if expect is None else _states_of(expect, "expect")
        return await _loop.in_file_thread(cls._load, path, expected)

    @classmethod
    def _load(cls, path: str | PathLike[str], expected: list[IteratorState] | None) -> Self:
        loaded = cls._of_parts(*files.unpack_file(path, version=cls.VERSION))
        if expected is not None:
            state.check_expected(loaded, expected)
        return loaded

    @staticmethod
    async def check_writable(path: str | PathLike[str]) -> None:
        """Check that :meth:`save` can write to ``path``. Call it before training starts.

        It writes a small file beside ``path``, to the disk, and removes it. The file at ``path`` stays as it is. It does
        not check that there is room for a whole state. Runs in a thread.

        Raises:
            CheckpointError: the folder does not exist, may not be written to, or is on a full or failing disk, or the
                path is a folder or no path at all; the message says which.
        """
        await _loop.in_file_thread(files.check_writable, path)
