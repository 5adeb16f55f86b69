"""An iterator that shows how many threads the libraries of its worker use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import threadpoolctl

from asyncprefetch import register
from asyncprefetch.iterators import from_iterable


def threads_here() -> dict[str, Any]:
    """The variable of OpenMP, and the numbers of the BLAS libraries that are loaded."""
    np.ones((2, 2)) @ np.ones((2, 2))
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {"variable": os.environ.get("OMP_NUM_THREADS"), "blas": pools}


@register("tests.threads_of_a_worker")
def threads_of_a_worker() -> Iterator[dict[str, Any]]:
    yield threads_here()


def shards(number: int) -> list[Any]:
    return [from_iterable(threads_of_a_worker) for _ in range(number)]
