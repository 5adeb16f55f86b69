"""A batch as a checkpoint holds it: decoded when it is delivered."""

from typing import Any, NamedTuple, Self

from pydantic import JsonValue

from asyncprefetch import _codec


class Saved(NamedTuple):
    """A batch as a checkpoint holds it."""

    structure: JsonValue
    leaves: tuple[bytes, ...]  # of the whole state: the structure names its own
    size: int

    def load(self) -> Any:
        return _codec.decode(self.structure, self.leaves)

    def reading(self) -> Self:
        return self
