"""A loader's state as data: from a snapshot to the fields of the state, back to a snapshot, and checked when it is read.

Iterator states and batches are held encoded, their arrays as *leaves*: immutable, and objects again only where a loader
is built.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from asyncprefetch import _codec
from asyncprefetch._checkpoint.saved_batch import Saved
from asyncprefetch._codec.program import is_worker
from asyncprefetch._loop.options import Options, pickle_for_worker
from asyncprefetch._loop.snapshot import Ready, ShardSnapshot, Snapshot
from asyncprefetch._wire.messages import ShardStart
from asyncprefetch._wire.remote_errors import class_name, text_of
from asyncprefetch.base import IteratorState, compare_configuration
from asyncprefetch.errors import CheckpointError

# Far beyond any real number, and small enough that messages to workers hold it and what is added to it.
MOST_SHARDS, MOST_ITEMS = 1 << 31, 1 << 62

CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=is_worker())
"""The configuration of the models that make up a loader's state. A worker has no use for their validators."""

_MOST_DIFFERENCES = 100  # that one error lists

_EXPECT_ADVICE = "make them the same, or load without expect= to continue with the saved pipeline"


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many batches were delivered, over the whole life of the shards.

    Attributes:
        total: the count over all shards.
        by_shard: the count of each shard, by its global number.
    """

    total: int
    by_shard: Mapping[int, int]


class ShardState(BaseModel):
    """One shard in a loader's state: where it is started, how many items it skips then, and how many were delivered."""

    model_config: ClassVar[ConfigDict] = CONFIG

    shard_id: int = Field(ge=0)
    state: JsonValue
    state_position: int = Field(ge=0, le=MOST_ITEMS)
    skip: tuple[int, ...] = Field(strict=False)
    delivered: int = Field(ge=0, le=MOST_ITEMS)
    ended: bool


class BufferedBatch(BaseModel):
    """One batch that was made and not delivered."""

    model_config: ClassVar[ConfigDict] = CONFIG

    shard_id: int
    item: JsonValue


class StateFields(Protocol):
    """The fields of a loader's state, as far as they shape the stream."""

    @property
    def in_order(self) -> bool: ...

    @property
    def num_shards(self) -> int: ...

    @property
    def due(self) -> int: ...

    @property
    def shards(self) -> tuple[ShardState, ...]: ...

    @property
    def buffer(self) -> tuple[BufferedBatch, ...]: ...

    @property
    def leaves(self) -> tuple[bytes, ...]: ...


S = TypeVar("S", bound=StateFields)


# ------------------------------------------------------------------------------------------------ snapshot <-> fields


def fields_of(snapshot: Snapshot, num_shards: int, options: Options) -> dict[str, Any]:
    """The snapshot as the fields of a state, on memory of its own. It may take long: call it in a thread.

    Raises:
        CheckpointError: a batch or a state holds what a checkpoint can't hold.
    """
    leaves: list[bytes] = []
    return {
        "in_order": snapshot.in_order,
        "num_shards": num_shards,
        "due": snapshot.due,
        "shards": tuple(
            ShardState(
                shard_id=shard.shard,
                state=_codec.encode_state(_state_of(shard), leaves),
                state_position=shard.start.state_position,
                skip=shard.start.skip,
                delivered=shard.delivered,
                ended=shard.ended,
            )
            for shard in snapshot.shards
        ),
        "buffer": tuple(BufferedBatch(shard_id=ready.shard, item=_encoded(ready, leaves)) for ready in snapshot.buffer),
        "leaves": tuple(leaves),
        "n_batches_to_prefetch": options.n_batches_to_prefetch,
        "num_workers": options.num_workers,
    }


def to_snapshot(state: StateFields) -> Snapshot:
    """What a loader is started from.

    Raises:
        CheckpointError: a class or function that the state names is not registered here, or an iterator's state
            can't be sent to a worker.
    """
    shards = tuple(
        ShardSnapshot(
            shard.shard_id,
            ShardStart(_pickled_state(state, shard), shard.state_position, shard.skip),
            shard.ended,
            shard.delivered,
        )
        for shard in state.shards
    )
    # The size of all leaves for each batch: an overestimate, so that no large batch is loaded on the loop.
    size = sum(map(len, state.leaves))
    buffer = tuple(Ready(batch.shard_id, Saved(batch.item, state.leaves, size)) for batch in state.buffer)
    return Snapshot(state.in_order, state.due, shards, buffer)


def iterator_state(state: StateFields, shard: ShardState) -> IteratorState:
    """The state of a shard's iterator, as an object.

    Raises:
        CheckpointError: it names what is not registered here, or is no state.
    """
    decoded = _codec.decode(shard.state, state.leaves)
    if not isinstance(decoded, IteratorState):
        raise CheckpointError(f"shard {shard.shard_id}: {_codec.brief(decoded)} is not the state of an iterator")
    return decoded


def _pickled_state(state: StateFields, shard: ShardState) -> bytes:
    try:
        return pickle_for_worker(iterator_state(state, shard), f"the state of shard {shard.shard_id}")
    except TypeError as error:  # a registered class with fields left out, or a function that no module has
        raise CheckpointError(str(error)) from error


def _state_of(shard: ShardSnapshot) -> Any:
    return _loaded(lambda: pickle.loads(shard.start.state), f"the state of shard {shard.shard}")


def _encoded(ready: Ready, leaves: list[bytes]) -> JsonValue:
    name = f"a buffered batch of shard {ready.shard}"
    return _codec.encode(_loaded(ready.payload.load, name), leaves, name=name)


def _loaded(load: Callable[[], Any], name: str) -> Any:
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # CancelledError and the like would mean something else to the caller of get_state()
        text = f"{name} can't be unpickled here: {class_name(type(error))}: {text_of(error)}"
        raise CheckpointError(text) from error


# ------------------------------------------------------------------------------------------------------------- checks


def check(state: StateFields) -> None:
    """Check that the fields fit each other.

    Raises:
        ValueError: they do not; the message says which and why.
    """
    ids = [shard.shard_id for shard in state.shards]
    if len(set(ids)) != len(ids) or not all(i < state.num_shards for i in ids):
        raise ValueError(f"shards {ids} of {state.num_shards}: the numbers must differ and be below the count")
    if state.due not in ids:
        raise ValueError(f"shard {state.due} is due, which is not in the state")
    buffered = dict.fromkeys(ids, 0)
    for batch in state.buffer:
        if batch.shard_id not in buffered:
            raise ValueError(f"a buffered batch belongs to shard {batch.shard_id}, which is not in the state")
        buffered[batch.shard_id] += 1
    for shard in state.shards:
        if shard.state_position + len(shard.skip) != shard.delivered + buffered[shard.shard_id]:
            raise ValueError(f"shard {shard.shard_id}: its position does not fit what was delivered and buffered")


def read(validate: Callable[[], S], document: JsonValue, version: int) -> S:
    """The state that ``validate()`` makes of a document. All names in it must be registered.

    Raises:
        CheckpointError: the document is malformed, of a newer version than ``version``, or names what is not
            registered here.
    """
    written = document.get("version") if isinstance(document, dict) else None
    if isinstance(written, int) and written > version:
        raise CheckpointError(
            f"the state has version {written}, and this asyncprefetch reads up to {version}: use a newer one"
        )
    try:
        state = validate()
    except ValidationError as error:
        raise CheckpointError(f"malformed state: {_codec.validation_text(error)}") from error
    except MemoryError as error:
        raise CheckpointError("there is not enough memory to read the state") from error
    # An unknown name is an error when the state is read, not when it is built or, worse, when a batch is delivered.
    for shard in state.shards:
        iterator_state(state, shard)
    for batch in state.buffer:
        _codec.decode(batch.item, state.leaves)
    return state


def check_expected(state: StateFields, expected: Sequence[IteratorState]) -> None:
    """Check that the state was saved from the pipeline that has these states.

    Raises:
        CheckpointError: it was not; all fields that differ are listed.
    """
    if state.num_shards != len(expected):
        raise CheckpointError(
            f"the pipeline that was saved has {_shards(state.num_shards)}, and the one given as expect= has "
            f"{_shards(len(expected))}: {_EXPECT_ADVICE}"
        )
    differences = [
        line
        for shard in state.shards
        for line in compare_configuration(
            iterator_state(state, shard), expected[shard.shard_id], f"shard {shard.shard_id}"
        )
    ]
    if differences:
        if len(differences) > _MOST_DIFFERENCES:
            differences[_MOST_DIFFERENCES:] = [f"and {len(differences) - _MOST_DIFFERENCES} more"]
        raise CheckpointError(
            f"the pipeline given as expect= differs from the one that was saved: {_EXPECT_ADVICE}\n  "
            + "\n  ".join(differences)
        )


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"
