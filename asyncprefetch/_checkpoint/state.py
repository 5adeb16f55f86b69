"""A loader's state as data: a snapshot <-> a pydantic model <-> JSON or bytes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from asyncprefetch import _codec
from asyncprefetch._checkpoint import container
from asyncprefetch._checkpoint.saved_batch import Saved
from asyncprefetch._loop.options import MOST_BATCHES_TO_PREFETCH, Options, pickle_for_worker
from asyncprefetch._loop.shard_queue import Ready
from asyncprefetch._loop.snapshot import ShardSnapshot, Snapshot
from asyncprefetch._wire.messages import ShardStart
from asyncprefetch._wire.remote_errors import class_name, text_of
from asyncprefetch.base import IteratorState
from asyncprefetch.errors import CheckpointError

# Far beyond any real number, and small enough that messages to workers hold it and what is added to it.
_MOST_SHARDS, _MOST_ITEMS = 1 << 31, 1 << 62


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many batches were delivered, over the whole life of the shards."""

    total: int
    by_shard: Mapping[int, int]


class ShardState(BaseModel):
    """One shard in a loader's state: where to start it, how much to skip, and what was delivered of it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard_id: int = Field(ge=0)
    state: JsonValue
    state_position: int = Field(ge=0, le=_MOST_ITEMS)
    skip: tuple[int, ...] = Field(strict=False)
    delivered: int = Field(ge=0, le=_MOST_ITEMS)
    ended: bool


class BufferedBatch(BaseModel):
    """One batch that was made and not delivered."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard_id: int
    item: JsonValue


class StateData(BaseModel):
    """The data of a loader's state, and its ways to JSON and bytes and back.

    Iterator states and batches are held encoded (their arrays as ``leaves``): immutable, and objects again only where a
    loader is built.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_bytes="base64", val_json_bytes="base64"
    )
    VERSION: ClassVar[int] = 1

    version: int = VERSION
    in_order: bool
    num_shards: int = Field(ge=1, le=_MOST_SHARDS)
    due: int
    shards: tuple[ShardState, ...] = Field(min_length=1, strict=False)
    buffer: tuple[BufferedBatch, ...] = Field(strict=False)
    leaves: tuple[bytes, ...] = Field(strict=False, repr=False)
    n_batches_to_prefetch: int = Field(ge=1, le=MOST_BATCHES_TO_PREFETCH)
    num_workers: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version != self.VERSION:
            raise ValueError(f"version {self.version} of the state, where this asyncprefetch knows {self.VERSION}")
        ids = self.shard_ids
        if len(set(ids)) != len(ids) or not all(i < self.num_shards for i in ids):
            raise ValueError(f"shards {ids} of {self.num_shards}: the numbers must differ and lie below the count")
        if self.due not in ids:
            raise ValueError(f"shard {self.due} is due, which is not in the state")
        buffered = dict.fromkeys(ids, 0)
        for batch in self.buffer:
            if batch.shard_id not in buffered:
                raise ValueError(f"a buffered batch belongs to shard {batch.shard_id}, which is not in the state")
            buffered[batch.shard_id] += 1
        for shard in self.shards:
            if shard.state_position + len(shard.skip) != shard.delivered + buffered[shard.shard_id]:
                raise ValueError(f"shard {shard.shard_id}: its position does not fit what was delivered and buffered")
        return self

    @property
    def shard_ids(self) -> tuple[int, ...]:
        """The global numbers of the shards, in their order."""
        return tuple(shard.shard_id for shard in self.shards)

    @property
    def delivered(self) -> Delivered:
        """Batches delivered, in all and by global shard number, over the whole life of the stream."""
        by_shard = {shard.shard_id: shard.delivered for shard in self.shards}
        return Delivered(sum(by_shard.values()), by_shard)

    @classmethod
    def of_snapshot(cls, snapshot: Snapshot, num_shards: int, options: Options) -> Self:
        """The snapshot as data, on memory of its own. May take long: for a thread.

        Raises:
            CheckpointError: a batch or a state holds what a checkpoint can't.
        """
        leaves: list[bytes] = []
        return cls(
            in_order=snapshot.in_order,
            num_shards=num_shards,
            due=snapshot.due,
            shards=tuple(
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
            buffer=tuple(
                BufferedBatch(
                    shard_id=ready.shard,
                    item=_encoded(ready, leaves),
                )
                for ready in snapshot.buffer
            ),
            leaves=tuple(leaves),
            n_batches_to_prefetch=options.n_batches_to_prefetch,
            num_workers=options.num_workers,
        )

    def to_snapshot(self) -> Snapshot:
        """What a loader is started from.

        Raises:
            CheckpointError: a class or function that the state names is not registered here, or an iterator's state
                can't be sent to a worker.
        """
        shards = tuple(
            ShardSnapshot(
                shard.shard_id,
                ShardStart(self._pickled_state(shard), shard.state_position, shard.skip),
                shard.ended,
                shard.delivered,
            )
            for shard in self.shards
        )
        # For each batch that of all leaves: more than its own, so that no large one is opened on the loop.
        size = sum(map(len, self.leaves))
        buffer = tuple(Ready(batch.shard_id, Saved(batch.item, self.leaves, size)) for batch in self.buffer)
        return Snapshot(self.in_order, self.due, shards, buffer)

    def _pickled_state(self, shard: ShardState) -> bytes:
        state = self.iterator_state(shard)
        try:
            return pickle_for_worker(state, f"the state of shard {shard.shard_id}")
        except TypeError as error:  # a registered class with fields left out, or a function that is no module's
            raise CheckpointError(str(error)) from error

    def iterator_state(self, shard: ShardState) -> IteratorState:
        """The state of a shard's iterator, as an object.

        Raises:
            CheckpointError: it names what is not registered here, or is no state.
        """
        state = _codec.decode(shard.state, self.leaves)
        if not isinstance(state, IteratorState):
            raise CheckpointError(f"shard {shard.shard_id}: {_codec.brief(state)} is not the state of an iterator")
        return state

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """The state that ``model_dump_json()`` wrote. No code of the data's choosing is run.

        Raises:
            CheckpointError: it is damaged, of another version, or names what is not registered here.
        """
        document = container.parse_json(bytes(json_data) if isinstance(json_data, bytearray) else json_data)
        return cls._read(lambda: super(StateData, cls).model_validate_json(json_data, **kwargs), document)

    def to_bytes(self) -> bytes:
        """The state as one safetensors container, with a checksum.

        Raises:
            CheckpointError: what is no array is larger than the container's header may be (100 MB).
        """
        return container.pack(self._document(), self.leaves, version=self.VERSION)

    def _document(self) -> dict[str, JsonValue]:
        return self.model_dump(mode="json", exclude={"leaves"})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The state that :meth:`to_bytes` wrote. No code of the data's choosing is run.

        Raises:
            CheckpointError: it is damaged, truncated, foreign, of a newer version, or names what is not registered.
        """
        return cls._of_parts(*container.unpack(data, version=cls.VERSION))

    @classmethod
    def _of_parts(cls, document: dict[str, JsonValue], leaves: list[bytes]) -> Self:
        if "leaves" in document:
            raise CheckpointError("malformed checkpoint: leaves inside of the document")
        return cls._read(lambda: cls.model_validate({**document, "leaves": tuple(leaves)}), document)

    @classmethod
    def _read(cls, validate: Callable[[], Self], document: JsonValue) -> Self:
        version = document.get("version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > cls.VERSION:
            raise CheckpointError(
                f"the state is of version {version}, and this asyncprefetch reads up to {cls.VERSION}: use a newer one"
            )
        try:
            state = validate()
        except ValidationError as error:
            raise CheckpointError(f"malformed state: {_codec.told(error)}") from error
        except MemoryError as error:
            raise CheckpointError("there is not enough memory to read the state") from error
        # Names that are not known here are told when the state is read, not when it is built or, worse, reached.
        for shard in state.shards:
            state.iterator_state(shard)
        for batch in state.buffer:
            _codec.decode(batch.item, state.leaves)
        return state


def _opened(open_it: Callable[[], Any], name: str) -> Any:
    try:
        return open_it()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # CancelledError and the like mean something else to who asked for a state
        text = f"{name} can't be unpickled here: {class_name(type(error))}: {text_of(error)}"
        raise CheckpointError(text) from error


def _state_of(shard: ShardSnapshot) -> Any:
    return _opened(lambda: pickle.loads(shard.start.state), f"the state of shard {shard.shard}")


def _encoded(ready: Ready, leaves: list[bytes]) -> JsonValue:
    name = f"a buffered batch of shard {ready.shard}"
    return _codec.encode(_opened(ready.payload.open, name), leaves, name=name)
