"""A batch as a checkpoint holds it: decoded when it is delivered."""

from typing import Any, NamedTuple, Self

from pydantic import JsonValue

from asyncprefetch import _codec


class Saved(NamedTuple):
    """A batch as a checkpoint holds it."""

    structure: JsonValue
    leaves: tuple[bytes, ...]  # all leaves of the state; the structure refers to its own by index
    size: int

    def load(self) -> Any:
        return _codec.decode(self.structure, self.leaves)

    def reading(self) -> Self:
        return self
