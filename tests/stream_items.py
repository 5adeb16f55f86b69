"""Iterators for the tests of the stream transport. Workers import this module, so it imports little."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import asyncprefetch
from asyncprefetch import IteratorState, Position, StatefulIterator, register
from asyncprefetch.iterators import from_iterable
from tests.inside import records, shared_memory, worker_socket

BLOCK = 1 << 17


class BlockState(IteratorState, kind="tests.block"):
    stop: int
    in_slot: bool
    position: Position[int] = 0

    def build(self) -> Blocks:
        return Blocks(self.stop, self.in_slot, self.position)


class Blocks(StatefulIterator[dict[str, Any]]):
    """Yields arrays of 128 kB, made in a slot or not."""

    def __init__(self, stop: int, in_slot: bool = False, position: int = 0) -> None:
        self.stop, self.in_slot, self.position = stop, in_slot, position

    def get_state(self) -> BlockState:
        return BlockState(stop=self.stop, in_slot=self.in_slot, position=self.position)

    def create_iter(self) -> Iterator[dict[str, Any]]:
        full = asyncprefetch.full if self.in_slot else np.full
        while self.position < self.stop:
            self.position += 1
            n = self.position - 1
            yield {"x": full(BLOCK // 8, n, np.int64), "n": n}


@register("tests.stream.long_texts")
def long_texts() -> Iterator[str]:
    for n in range(6):
        yield f"{n}" * 3_000_000


texts = from_iterable(long_texts)


@register("tests.stream.tensors")
def tensors() -> Iterator[Any]:
    import torch  # noqa: PLC0415 - only the worker of this iterator has it

    for n in range(4):
        yield {
            "large": torch.full((64, 1024), n, dtype=torch.int64),
            "small": torch.full((3,), n, dtype=torch.float32),
            "half": torch.full((5000,), n, dtype=torch.bfloat16),
            "transposed": torch.arange(12_000).reshape(100, 120).T + n,
            "strided": torch.arange(40_000)[::2] + n,
            "empty": torch.empty((0, 3), dtype=torch.uint8),
            "scalar": torch.tensor(n),
            "flags": torch.tensor([True, False]),
            "complex": torch.full((2,), complex(n, 1)),
            "parameter": torch.nn.Parameter(torch.ones(3)),
            "gradient": torch.ones(2, requires_grad=True),
            "array": np.full(5000, n),
        }


tensor_items = from_iterable(tensors)


@register("tests.stream.has_torch")
def whether_torch() -> list[bool]:
    return ["torch" in sys.modules]


has_torch = from_iterable(whether_torch)


class StubbornState(IteratorState, kind="tests.stubborn"):
    stop: int
    folder: str
    position: Position[int] = 0

    def build(self) -> Stubborn:
        return Stubborn(self.stop, self.folder, self.position)


class Stubborn(StatefulIterator[Any]):
    """Counts. Item 3 can't be pickled at the first try. Afterwards the iterator allocates shared memory when it closes."""

    def __init__(self, stop: int, folder: str, position: int = 0) -> None:
        self.stop, self.folder, self.position = stop, folder, position

    def get_state(self) -> StubbornState:
        return StubbornState(stop=self.stop, folder=self.folder, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        tried = Path(self.folder, "tried")
        try:
            while self.position < self.stop:
                self.position += 1
                if self.position == 4 and not tried.exists():
                    tried.touch()
                    yield lambda: None
                else:
                    yield self.position - 1
        finally:
            if tried.exists():
                closing = Path(self.folder, "closing")
                if closing.exists():
                    # Wait until the test knows that the loader has sent credit for the next run.
                    closing.write_bytes(b"!")
                    Path(self.folder, "go-on").read_bytes()
                    closing.unlink()  # here, so that a later close does not find the pipe
                asyncprefetch.zeros(100_000)


class AlarmedState(IteratorState, kind="tests.alarmed"):
    stop: int
    folder: str
    position: Position[int] = 0

    def build(self) -> Alarmed:
        return Alarmed(self.stop, self.folder, self.position)


class Alarmed(StatefulIterator[dict[str, Any]]):
    """At item 3, an alarm's handler raises within ``empty``, after it has read orders. The iterator catches the error."""

    def __init__(self, stop: int, folder: str, position: int = 0) -> None:
        self.stop, self.folder, self.position = stop, folder, position

    def get_state(self) -> AlarmedState:
        return AlarmedState(stop=self.stop, folder=self.folder, position=self.position)

    def create_iter(self) -> Iterator[dict[str, Any]]:
        made = Path(self.folder, "made")
        while self.position < self.stop:
            if self.position == 3 and made.exists():
                # Wait until the test has requested the state: the order has arrived then.
                made.write_bytes(b"!")
                Path(self.folder, "asked").read_bytes()
                made.unlink()
                worker_socket.unpack_orders = _alarm
            try:
                x = asyncprefetch.empty(BLOCK // 8, np.int64)
            except TimeoutError:
                worker_socket.unpack_orders = records.unpack_orders
                x = np.empty(BLOCK // 8, np.int64)
            x.fill(self.position)
            self.position += 1
            yield {"x": x, "n": self.position - 1}


def _alarm(data: bytes) -> NoReturn:
    raise TimeoutError("an alarm")


def refuse_to_punch(worker: int) -> None:
    """As an initializer: the system refuses to free parts of shared memory, as some sandboxes do."""
    shared_memory._remove = _refused  # type: ignore[assignment]


def _refused(*args: object) -> None:
    raise OSError(95, "Operation not supported")
