"""The worker's end of the protocol: it takes messages, keeps the shards of the present run, and draws on credit.

An item is drawn only if there is credit for it, and it is pickled at once. Every exception of the user's code leaves the
worker as a ``Failed`` message.
"""

from __future__ import annotations

import os
import pickle
from concurrent.futures import BrokenExecutor

from asyncprefetch._wire.messages import Credit, Final, Hello, Setup, SetupFailed, Start, Stop
from asyncprefetch._worker import counters
from asyncprefetch._worker.counters import counted
from asyncprefetch._worker.outlet import Outlet, send_reports
from asyncprefetch._worker.shard import Shard
from asyncprefetch._worker.user_code import UserCodeError, guarded


class Producer:
    """Drives the shards of one worker.

    Args:
        outlet: where its messages go.
    """

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._shards: dict[int, Shard] = {}
        self._run = -1
        self.is_set_up = False  # whether the user's initializer succeeded

    def handle(self, message: Setup | Start | Stop) -> None:
        """Do what ``message`` asks for. Raises no exception of the user's code.

        Raises:
            BrokenExecutor: the worker is not set up.
        """
        counters.drain()
        send_reports(self._outlet)
        if isinstance(message, Setup):
            self._setup(message)
        elif not self.is_set_up:
            raise BrokenExecutor("the worker was not set up")
        elif isinstance(message, Start):
            self._start(message)
        else:
            self._stop(message)

    def draw(self, credit: Credit) -> bool:
        """Draw one item, or a piece of a replay. Returns whether the credit may be good for more."""
        shard = self._shards.get(credit.shard)
        if shard is None or credit.run != self._run or shard.position >= credit.upto or shard.ended:
            return False
        if counted.by_name:
            counters.drain()  # counts that were made outside of a draw are not the iterators'
        shard.draw(credit.run)
        return True

    def missing(self, credit: Credit) -> int:
        """How many items may still be drawn on the credit."""
        shard = self._shards.get(credit.shard)
        if shard is None or credit.run != self._run or shard.ended:
            return 0
        return max(0, credit.upto - shard.position)

    def close(self) -> None:
        """Close every iterator, so that the ``finally`` blocks of generators run."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        send_reports(self._outlet)

    def _setup(self, setup: Setup) -> None:
        if setup.initializer is not None:
            try:
                initializer = guarded("initializer", pickle.loads, setup.initializer)
                guarded("initializer", initializer, setup.worker)
            except UserCodeError as raised:
                send_reports(self._outlet)
                self._outlet.send(SetupFailed(raised.error))
                return
        self.is_set_up = True
        send_reports(self._outlet)
        self._outlet.send(Hello(os.getpid()))

    def _start(self, start: Start) -> None:
        kept = self._shards
        self._run = start.run
        self._shards = {}
        for number, shard_start in start.shards.items():
            live = kept.get(number)
            if live is not None and live.can_serve(shard_start):
                self._shards[number] = kept.pop(number)
            else:
                self._shards[number] = Shard(number, shard_start, self._outlet)
        for shard in kept.values():
            shard.close()
        for shard in self._shards.values():
            shard.share_time(len(self._shards))

    def _stop(self, stop: Stop) -> None:
        if stop.run != self._run:
            return
        for shard in self._shards.values():
            shard.send_final_state(stop.run)
        send_reports(self._outlet)
        self._outlet.send(Final(stop.run))
