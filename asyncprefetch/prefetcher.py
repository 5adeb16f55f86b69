"""The loader and its state: each builds the other."""

from __future__ import annotations

import pickle
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from asyncprefetch import _items, checkpoint
from asyncprefetch._core import Core, ShardSnapshot, Snapshot
from asyncprefetch._entries import Ready, Saved
from asyncprefetch._messages import ShardStart
from asyncprefetch._options import Options, Resources, pickle_for_worker
from asyncprefetch.base import IteratorState, StatefulIterator, compare_configuration
from asyncprefetch.errors import CheckpointError, CheckpointWarning, PrefetcherBusyError
from asyncprefetch.statistics import Statistics, explain

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AsyncPrefetcher(Generic[T_co]):
    """Makes the items of stateful iterators ahead of time, in worker processes, for one asynchronous consumer.

    ::

        async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=8) as loader:
            async for batch in loader:
                ...
                state = await loader.get_state()

    The workers start when ``async with`` is entered, or at the first batch. At the end of the stream they end by
    themselves; before it, call ``aclose()`` or leave the ``async with``.

    Order: with ``in_order`` the shards take strict turns, and one that is exhausted drops out at its turn; without, batches
    come as they are ready. Each shard's own sequence is kept either way, whatever the number of workers.

    Loss: none. A call that is cancelled or times out has taken nothing; a worker that dies is started again from its last
    state and what was received is skipped; errors come after the batches received before them.

    Args:
        base_iterator: one stateful iterator, or a sequence of them: the shards. Only its state is used; it is asked for
            here, and the iterator itself is left alone.
        n_batches_to_prefetch: bound on the batches made and not delivered, over all shards.
        num_workers: processes to host the shards; by default as many as there are shards and usable CPUs.
        in_order: whether the shards take strict turns.
        max_restarts: how often in a row, without a batch in between, a dead worker is started again.
        retry_on: exception classes for which an item is drawn again, from the last known state, up to five times with
            growing pauses (0.1 to 1.6 s).
        stall_timeout: seconds without a message, while something is asked of a worker, until it counts as stalled.
        start_timeout: seconds for a worker to start.
        start_method: of the worker processes; by default forkserver where there is one, else spawn.
        worker_initializer: called with the worker's number in each worker before anything else.
        worker_env: environment variables for worker processes, beside the present ones.
        executor_factory: called with the worker's number, gives an executor of one worker that keeps to the order of
            calls, to be used instead of a process. The loader shuts it down.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or value; the message says which and what to do.
    """

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
        start_method: str | None = None,
        worker_initializer: Callable[[int], object] | None = None,
        worker_env: Mapping[str, str] | None = None,
        executor_factory: Callable[[int], Executor] | None = None,
    ) -> None:
        options = Options(
            n_batches_to_prefetch=n_batches_to_prefetch,
            num_workers=num_workers,
            max_restarts=max_restarts,
            retry_on=retry_on,
            stall_timeout=stall_timeout,
            start_timeout=start_timeout,
            start_method=start_method,
            worker_initializer=worker_initializer,
            worker_env=worker_env,
            executor_factory=executor_factory,
        )
        states = _states_of(base_iterator)
        shards = tuple(
            ShardSnapshot(i, ShardStart(pickle_for_worker(state, f"the state of shard {i}"), 0, ()), False, 0)
            for i, state in enumerate(states)
        )
        self._set_up(Snapshot(in_order, 0, shards, ()), len(shards), options)

    def _set_up(self, origin: Snapshot, num_shards: int, options: Options) -> None:
        options.pickled_initializer()
        self._num_shards = num_shards
        self._core = Core(origin, options)
        self._taking = False
        self._to_check = {shard.shard for shard in origin.shards}
        weakref.finalize(self, self._core.abandon, repr(self)).atexit = False

    @classmethod
    def _restored(cls, origin: Snapshot, num_shards: int, options: Options) -> Self:
        loader = cls.__new__(cls)
        loader._set_up(origin, num_shards, options)
        return loader

    def __repr__(self) -> str:
        return f"<AsyncPrefetcher of {self._num_shards} shards at {id(self):#x}>"

    async def __aenter__(self) -> Self:
        self._core.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """The next item. Cancelled or timed out, it has taken nothing.

        Raises:
            StopAsyncIteration: all shards are exhausted; again at every further call.
            ProducerError, WorkerDiedError, ProducerStalledError: in the place of the batch that could not be made,
                after all that come before it; again at every further call.
            PrefetcherBusyError: another call is waiting, or the loader belongs to another event loop.
            PrefetcherClosedError: the loader is closed.
        """
        if self._taking:
            raise PrefetcherBusyError(
                "another task is waiting for the next batch of this loader: one consumer at a time, for two would "
                "share the stream in an order that no checkpoint could restore"
            )
        self._taking = True
        try:
            item: T_co = await self._core.next(self._check_first)
        finally:
            self._taking = False
        return item

    def _check_first(self, shard: int, item: Any) -> None:
        """Warn once a shard, at its first batch, if a checkpoint could not hold what it makes."""
        if shard not in self._to_check:
            return
        self._to_check.discard(shard)
        reason = _items.explain_unsupported(item)
        if reason is not None:
            warnings.warn(
                f"shard {shard}: a checkpoint can't hold its batches, and get_state() will raise: {reason}",
                CheckpointWarning,
                stacklevel=5,
            )

    async def get_state(self, *, grace: float | None = None) -> AsyncPrefetcherState:
        """The state of the whole loader: what was not delivered yet, and nothing else, comes out of what it builds.

        Ends the workers' runs, waits until each has sent its states and its final sentinel, takes states and buffered
        batches in one step, and lets the workers go on. It can be called at any time before ``aclose()``: before the
        first batch, after the end, after an error (then it resumes at the item that failed), and while another task
        waits for a batch. Only the task that consumes the batches gets a state that fits what it has done with them.

        Cancelled, it has changed nothing. It returns when the longest running draw is over; with ``grace``, after so
        many seconds at the latest, and then for those still busy the last known state and the number of items to skip.

        Raises:
            CheckpointError: a buffered batch holds what a checkpoint can't; the message names its path.
            PrefetcherClosedError: the loader is closed.
            PrefetcherBusyError: the loader belongs to another event loop.
            ValueError: ``grace`` is negative.
        """
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be a number of seconds from 0, not {grace!r}")
        snapshot = await self._core.snapshot(grace)
        options, num_shards = self._core.options, self._num_shards
        return await anyio.to_thread.run_sync(AsyncPrefetcherState._of, snapshot, num_shards, options)

    def statistics(self) -> Statistics:
        """The figures of this moment: batches, waits, workers."""
        return self._core.statistics()

    def explain(self) -> str:
        """Where the time goes, in words."""
        return explain(self.statistics())

    async def aclose(self) -> None:
        """Close the iterators, end the workers, and wait until they are gone; a busy one is killed after a few seconds.

        Idempotent. Whoever waits for a batch or a state gets ``PrefetcherClosedError``.
        """
        with anyio.CancelScope(shield=True):
            await self._core.aclose()


def _states_of(base_iterator: Any) -> list[IteratorState]:
    iterators = [base_iterator] if isinstance(base_iterator, StatefulIterator) else base_iterator
    if not isinstance(iterators, Sequence) or isinstance(iterators, str | bytes):
        raise TypeError(
            f"base_iterator must be a StatefulIterator or a sequence of them, not {base_iterator!r:.80}; for a plain "
            "iterable see asyncprefetch.iterators.from_iterable"
        )
    if not iterators:
        raise ValueError("base_iterator is an empty sequence: a loader needs at least one shard")
    states = []
    for i, iterator in enumerate(iterators):
        if not isinstance(iterator, StatefulIterator):
            raise TypeError(f"shard {i} must be a StatefulIterator, not {iterator!r:.80}")
        state = iterator.get_state()
        if not isinstance(state, IteratorState):
            raise TypeError(f"shard {i}: get_state() must return an IteratorState, not {state!r:.80}")
        states.append(state)
    return states


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many batches were delivered, over the whole life of the shards."""

    total: int
    by_shard: Mapping[int, int]


class ShardState(BaseModel):
    """One shard in a loader's state: where to start it, how much to skip, and what was delivered of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard_id: int = Field(ge=0)
    state: JsonValue
    state_position: int = Field(ge=0)
    skip: tuple[int, ...] = Field(strict=False)
    delivered: int = Field(ge=0)
    ended: bool


class BufferedBatch(BaseModel):
    """One batch that was made and not delivered."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard_id: int
    item: JsonValue


class AsyncPrefetcherState(BaseModel):
    """A loader's state, as data: :meth:`build` gives a loader whose stream is exactly the rest.

    It is a value: nothing that happens to the loader or to delivered batches changes it. Iterator states and batches
    are held encoded (their arrays as ``leaves``), and become objects only when a loader is built.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_bytes="base64", val_json_bytes="base64"
    )
    VERSION: ClassVar[int] = 1

    version: int = VERSION
    in_order: bool
    num_shards: int = Field(ge=1)
    due: int
    shards: tuple[ShardState, ...] = Field(min_length=1, strict=False)
    buffer: tuple[BufferedBatch, ...] = Field(strict=False)
    leaves: tuple[bytes, ...] = Field(strict=False, repr=False)
    n_batches_to_prefetch: int
    num_workers: int | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version != self.VERSION:
            raise ValueError(f"version {self.version} of the state, where this asyncprefetch knows {self.VERSION}")
        ids = self.shard_ids
        if len(set(ids)) != len(ids) or not all(i < self.num_shards for i in ids):
            raise ValueError(f"shards {ids} of {self.num_shards}: the numbers must differ and lie below the count")
        if self.due not in ids:
            raise ValueError(f"shard {self.due} is due, which is not in the state")
        for shard in self.shards:
            buffered = sum(batch.shard_id == shard.shard_id for batch in self.buffer)
            if shard.state_position + len(shard.skip) != shard.delivered + buffered:
                raise ValueError(f"shard {shard.shard_id}: its position does not fit what was delivered and buffered")
        if not {batch.shard_id for batch in self.buffer} <= set(ids):
            raise ValueError("a buffered batch belongs to no shard of the state")
        return self

    @classmethod
    def _of(cls, snapshot: Snapshot, num_shards: int, options: Options) -> AsyncPrefetcherState:
        leaves: list[bytes] = []
        return cls(
            in_order=snapshot.in_order,
            num_shards=num_shards,
            due=snapshot.due,
            shards=tuple(
                ShardState(
                    shard_id=shard.shard,
                    state=_items.encode_state(pickle.loads(shard.start.state), leaves),
                    state_position=shard.start.state_position,
                    skip=shard.start.skip,
                    delivered=shard.delivered,
                    ended=shard.ended,
                )
                for shard in snapshot.shards
            ),
            buffer=tuple(
                BufferedBatch(
                    shard_id=ready.shard,
                    item=_items.encode(ready.payload.open(), leaves, name=f"a buffered batch of shard {ready.shard}"),
                )
                for ready in snapshot.buffer
            ),
            leaves=tuple(leaves),
            n_batches_to_prefetch=options.n_batches_to_prefetch,
            num_workers=options.num_workers,
        )

    @property
    def shard_ids(self) -> tuple[int, ...]:
        """The global numbers of the shards, in their order."""
        return tuple(shard.shard_id for shard in self.shards)

    @property
    def delivered(self) -> Delivered:
        """Batches delivered, in all and by global shard number, over the whole life of the stream."""
        by_shard = {shard.shard_id: shard.delivered for shard in self.shards}
        return Delivered(sum(by_shard.values()), by_shard)

    def build(self, **resources: Unpack[Resources]) -> AsyncPrefetcher[Any]:
        """A loader that goes on from here. Its first batches are those that the state holds, while the workers start.

        Args:
            resources: any keyword of :class:`AsyncPrefetcher` but ``base_iterator`` and ``in_order``, which shape the
                stream. The number of workers and of batches to prefetch are kept if they are not given; all others
                have their defaults.

        Raises:
            CheckpointError: a class or function that the state names is not registered here.
            TypeError, ValueError: as for :class:`AsyncPrefetcher`.
        """
        unknown = sorted(set(resources) - Resources.__annotations__.keys())
        if unknown:
            raise TypeError(
                f"build() takes no {', '.join(unknown)}: what shapes the stream is in the state; it takes "
                f"{', '.join(Resources.__annotations__)}"
            )
        kept: Resources = {"n_batches_to_prefetch": self.n_batches_to_prefetch, "num_workers": self.num_workers}
        kept.update(resources)
        options = Options(**kept)
        shards = tuple(
            ShardSnapshot(
                shard.shard_id,
                ShardStart(
                    pickle_for_worker(self._iterator_state(shard), f"the state of shard {shard.shard_id}"),
                    shard.state_position,
                    shard.skip,
                ),
                shard.ended,
                shard.delivered,
            )
            for shard in self.shards
        )
        buffer = tuple(Ready(batch.shard_id, Saved(batch.item, self.leaves)) for batch in self.buffer)
        return AsyncPrefetcher._restored(Snapshot(self.in_order, self.due, shards, buffer), self.num_shards, options)

    def _iterator_state(self, shard: ShardState) -> IteratorState:
        state = _items.decode(shard.state, self.leaves)
        if not isinstance(state, IteratorState):
            raise CheckpointError(f"shard {shard.shard_id}: {state!r:.80} is not the state of an iterator")
        return state

    # ------------------------------------------------------------------------------------------------------------ data

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """The state that ``model_dump_json()`` wrote. No code of the data's choosing is run.

        Raises:
            CheckpointError: it is damaged, of another version, or names what is not registered here.
        """
        data = checkpoint.parse_json(bytes(json_data) if isinstance(json_data, bytearray) else json_data)
        return cls._checked(lambda: super(AsyncPrefetcherState, cls).model_validate_json(json_data, **kwargs), data)

    def to_bytes(self) -> bytes:
        """The state as one safetensors container, with a checksum.

        Raises:
            CheckpointError: what is no array is larger than the container's header may be (100 MB).
        """
        document = self.model_dump(mode="json", exclude={"leaves"})
        return checkpoint.pack(document, self.leaves, version=self.VERSION)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that :meth:`to_bytes` wrote. No code of the data's choosing is run.

        Raises:
            CheckpointError: it is damaged, truncated, foreign, of a newer version, or names what is not registered.
        """
        document, leaves = checkpoint.unpack(data, version=cls.VERSION)
        if "leaves" in document:
            raise CheckpointError("malformed checkpoint: leaves inside of the document")
        return cls._checked(lambda: cls.model_validate({**document, "leaves": tuple(leaves)}), document)

    @classmethod
    def _checked(cls, read: Callable[[], Self], document: JsonValue) -> Self:
        version = document.get("version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > cls.VERSION:
            raise CheckpointError(
                f"the state is of version {version}, and this asyncprefetch reads up to {cls.VERSION}: use a newer one"
            )
        try:
            state = read()
        except ValidationError as error:
            raise CheckpointError(f"malformed state: {error}") from error
        # Names that are not known here are told when the state is read, not when it is built or, worse, reached.
        for shard in state.shards:
            state._iterator_state(shard)
        for batch in state.buffer:
            _items.decode(batch.item, state.leaves)
        return state

    async def save(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_bytes` to ``path``, atomically: the old file or the new one is there, whatever happens.

        The file can be read by its owner only. Runs in a thread; cancelled, it still completes.

        Raises:
            CheckpointError: it can't be written; the old file is as it was.
        """
        await anyio.to_thread.run_sync(lambda: checkpoint.write_file(path, self.to_bytes()))

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
                registered here, or was saved from another pipeline than ``expect``: all differing fields are listed.
        """
        state = await anyio.to_thread.run_sync(lambda: cls.from_bytes(checkpoint.read_file(path)))
        if expect is not None:
            state._check_expected(_states_of(expect))
        return state

    def _check_expected(self, expected: list[IteratorState]) -> None:
        if self.num_shards != len(expected):
            raise CheckpointError(
                f"the state is of {self.num_shards} shards, and the pipeline expected has {len(expected)}"
            )
        differences = [
            line
            for shard in self.shards
            for line in compare_configuration(
                self._iterator_state(shard), expected[shard.shard_id], f"shard {shard.shard_id}"
            )
        ]
        if differences:
            raise CheckpointError(
                "the state was saved from a pipeline of another configuration:\n  " + "\n  ".join(differences)
            )
