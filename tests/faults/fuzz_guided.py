"""A fuzzer of checkpoints that the coverage of the library's code guides. It needs atheris, which is not in an extra.

    python -m tests.faults.fuzz_guided -max_total_time=600 [FOLDER]

The options are those of libFuzzer. ``FOLDER`` keeps the inputs that reached new code for the next run. The fuzzer ends at
the first finding and saves it as a file.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(include=["asyncprefetch"]):
    from tests.faults import fuzz_checkpoints
    from tests.faults.containers import make_container, parts, states, write_corpus

if TYPE_CHECKING:
    from asyncprefetch import AsyncPrefetcherState


class Chance(random.Random):
    """Draws from the fuzzer's bytes. After their end it draws zeros."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._used = data, 0

    def getrandbits(self, k: int, /) -> int:
        size = (k + 7) // 8
        taken = self._data[self._used : self._used + size].ljust(size, b"\0")
        self._used += size
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        return self.getrandbits(16) / (1 << 16)


def damaged(saved: list[AsyncPrefetcherState], chance: Chance) -> tuple[bytes, str | None]:
    """Return a file that differs from a saved one, and the same difference as JSON where that is possible."""
    state = chance.choice(saved)
    if chance.random() < 0.8:
        return fuzz_checkpoints.Mutator(state, chance).damaged()
    # Replace bytes of the document's text. The result may be invalid JSON.
    text = fuzz_checkpoints.text_of(parts(state.to_bytes())[1])
    begin = chance.randrange(len(text))
    end = begin + chance.randrange(20)
    strange = chance.randbytes(chance.randrange(30)).decode("utf-8", "replace")
    return make_container(text[:begin] + strange + text[end:], list(state.leaves)), None


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        saved = asyncio.run(states(write_corpus(Path(folder))))
    fuzz_checkpoints.warm_up(saved)
    atheris.Setup(sys.argv, lambda data: fuzz_checkpoints.check(*damaged(saved, Chance(data))))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
