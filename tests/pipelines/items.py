"""Numbered items of many kinds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from asyncprefetch import Batch, register


@register("tests.Sample")
@dataclasses.dataclass
class Sample:
    text: str
    values: np.ndarray


@register("tests.Config")
class Config(BaseModel):
    name: str
    sizes: tuple[int, ...]


@register("tests.Pair")
class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Unregistered:
    value: int


def make_item(kind: str, n: int) -> Any:
    """Make item number ``n`` of a kind. Items with different numbers differ, except those of the kind ``none``."""
    match kind:
        case "int":
            return n
        case "none":
            return None
        case "batch":
            x = np.arange(n, n + 12, dtype=np.int64).reshape(3, 4)
            return Batch(x, x + 1, x % 2 == 0, np.full((3, 0), n, np.int32))
        case "nest":
            return {
                "n": n,
                3: [n, (n, None), b"bytes%d" % n, f"text {n} \u00e9", float(n) / 3, complex(n, -0.0), float("nan")],
                "sample": Sample(f"s{n}", np.full((2, n % 3), n, np.float16)),
                "config": Config(name=f"c{n}", sizes=(n, n + 1)),
                "pair": Pair(np.float32(n), np.array(n, ">i2")),
                "arrays": (
                    np.array(["a", f"b{n}"]),
                    np.array([n], "datetime64[s]"),
                    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3) + n),
                    np.zeros((0, 4), np.uint8),
                ),
            }
        case _ if kind.startswith("array"):
            _, dtype, shape = kind.split(":")
            sizes = [int(size) for size in shape.split(",") if size]
            # Repeat the bytes of the number, and view them as the dtype.
            data = np.resize(np.frombuffer(b"%d." % n, np.uint8), math.prod(sizes) * np.dtype(dtype).itemsize)
            return {"n": n, "array": data.view(dtype).reshape(sizes)}
        case "huge":
            return {"n": n, "x": np.full((1 << 18), n, np.int64)}
        case "big":
            return {"n": n, "x": np.full((1 << 16), n, np.int64)}
    raise AssertionError(kind)
