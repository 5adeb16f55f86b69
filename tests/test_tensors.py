"""Torch tensors cross like arrays, on the same memory. Without tensors, the library does not import torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from asyncprefetch import AsyncPrefetcher, CheckpointWarning
from tests import stream_items
from tests.consumer import rest
from tests.inside import ItemPickler, Layouts, fingerprint, item_pickler
from tests.transports.sides import Sides, lies_in_shared_memory


async def test_without_tensors_torch_is_not_imported():
    assert await rest(AsyncPrefetcher(stream_items.has_torch)) == [False]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def same(torch, a, b):
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@pytest.mark.filterwarnings("ignore::asyncprefetch.CheckpointWarning")
@pytest.mark.both_loops
async def test_tensors_of_every_kind_cross_and_are_the_consumers_own(torch, executor_factory):
    expected = list(stream_items.tensors())
    async with AsyncPrefetcher(stream_items.tensor_items, workers=executor_factory) as loader:
        number = 0
        async for item in loader:
            for name, tensor in expected[number].items():
                if name == "array":
                    assert item[name].tolist() == tensor.tolist()
                    continue
                assert same(torch, item[name], tensor), name
                assert item[name].requires_grad == tensor.requires_grad
                if not tensor.requires_grad:
                    item[name].fill_(1)  # it is writable and shares no memory
            number += 1
    assert number == len(expected)
    assert item["transposed"].stride() == expected[0]["transposed"].stride()


async def test_a_slice_of_a_tensor_keeps_its_memory(torch):
    async with AsyncPrefetcher(stream_items.tensor_items, n_batches_to_prefetch=1) as loader:
        with pytest.warns(CheckpointWarning):
            first = (await anext(loader))["large"][3:5]
        async for _ in loader:
            pass
    assert first.tolist() == [[0] * 1024] * 2


def test_the_fingerprint_sees_what_a_tensor_holds(torch):
    assert fingerprint({"x": torch.arange(5)}) == fingerprint({"x": torch.arange(5)})
    assert fingerprint({"x": torch.arange(5)}) != fingerprint({"x": torch.arange(1, 6)})
    halves = [torch.full((5,), n, dtype=torch.bfloat16) for n in (1, 2)]
    assert fingerprint(halves[0]) != fingerprint(halves[1])


def test_tensors_of_a_known_layout_cross_as_ever(torch):
    pickler = ItemPickler()
    for n in range(5):
        item = {
            "x": torch.full((2, 3), n),
            "y": torch.full((3,), n, dtype=torch.bfloat16),
            "z": np.full(4, n, np.int16),
            "t": torch.arange(6).reshape(2, 3).T if n == 3 else torch.full((3, 2), n),
        }
        frame, checksum, has_tensors = pickler.encode(item)
        assert has_tensors
        assert frame == ItemPickler().dumps(item)
        assert checksum == fingerprint(item)
        crossed = item_pickler.loads(frame)
        assert all(same(torch, crossed[name], item[name]) for name in "xyt")
        assert crossed["z"].tolist() == [n] * 4
    assert pickler.layouts.find(item) is not None
    arrays = [pickler.encode({"x": item["z"]}) for _ in range(5)]
    assert {has_tensors for _, _, has_tensors in arrays} == {False}
    assert pickler.encode({"x": item["t"]})[1] != arrays[0][1]


def test_large_tensors_of_a_known_layout_lie_on_slots_beside_small_ones(torch):
    with Sides() as sides:
        for n in range(6):
            item = {"x": torch.full((5000,), n), "y": torch.full((3,), n), "z": torch.full((2500,), n).double()}
            crossed, slot = sides.cross(item)
            assert slot == 0
            assert all(same(torch, crossed[name], item[name]) for name in item)
            assert [lies_in_shared_memory(tensor.numpy()) for tensor in crossed.values()] == [True, False, True]
            del crossed
            assert sides.give_back() == [0]


def test_a_gradient_is_kept_though_none_is_taken_now(torch):
    item = {"x": torch.zeros(3, requires_grad=True)}
    pickler = ItemPickler()
    with torch.no_grad():
        for _ in range(3):
            assert item_pickler.loads(pickler.dumps(item))["x"].requires_grad
    assert len(pickler.layouts) == 0


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors_of_four_dimensions_cross(torch):
    item = {"x": torch.zeros(2, 2, 2, 2).to_sparse()}
    crossed = item_pickler.loads(ItemPickler().dumps(item))["x"]
    assert crossed.shape == (2, 2, 2, 2)
    rows = torch.tensor([[[0, 1], [0, 1]], [[0, 1], [0, 1]]])
    columns = torch.zeros((2, 2, 1), dtype=torch.int64)
    batched = torch.sparse_csr_tensor(rows, columns, torch.ones(2, 2, 1), size=(2, 2, 1, 3))
    layouts = Layouts()
    assert [layouts.find({"x": batched}) for _ in range(3)] == [None] * 3


def test_a_tensor_is_several_times_smaller_than_torch_makes_it(torch):
    pickler = ItemPickler()
    frame, _, has_tensors = pickler.encode(torch.zeros(4))
    assert len(frame) < 200
    assert has_tensors
    assert not pickler.encode(1)[2]


def test_opening_the_first_tensor_imports_torch_in_a_thread(torch):
    """The import takes a second, and would block the loop."""
    code = """
import asyncio, sys, threading, warnings
from asyncprefetch import AsyncPrefetcher
from tests import stream_items

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("imported in the main thread:", threading.current_thread() is threading.main_thread())

async def main():
    sys.meta_path.insert(0, Finder())
    async with AsyncPrefetcher(stream_items.tensor_items) as loader:
        print((await anext(loader))["small"].tolist())

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["imported in the main thread: False", "[0.0, 0.0, 0.0]"], done.stderr
