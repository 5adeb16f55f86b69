"""A user's program against the installed package: load, save, restore, and compare. Run it outside of the source tree."""

import asyncio
import sys
import tempfile
from pathlib import Path

import asyncprefetch
from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState, register
from asyncprefetch.iterators import BatchIterator, ShuffleIterator, from_iterable


@register("smoke.numbers")
def numbers() -> range:
    """The items."""
    return range(100)


async def main() -> None:
    """Read the stream once without an interruption, and once through a saved state."""
    pipeline = BatchIterator(ShuffleIterator(from_iterable(numbers), buffer_size=10, seed=3), 7)
    async with AsyncPrefetcher(pipeline) as loader:
        expected = [batch async for batch in loader]
    assert sorted(number for batch in expected for number in batch) == list(range(100))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "loader.safetensors")
        async with AsyncPrefetcher(pipeline) as loader:
            first = [await anext(loader) for _ in range(4)]
            state = await loader.get_state()
            await state.save(file)
        async with (await AsyncPrefetcherState.load(file)).build() as loader:
            assert first + [batch async for batch in loader] == expected


if __name__ == "__main__":
    assert Path(asyncprefetch.__file__).is_relative_to(sys.prefix), (
        f"not the installed package: {asyncprefetch.__file__}"
    )
    asyncio.run(main())
    print(f"asyncprefetch {asyncprefetch.__version__} works from {Path(asyncprefetch.__file__).parent}")
