"""The credit of one run as a transport keeps it: what was sent to the worker, and what waits to be sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from asyncprefetch._wire.messages import Credit, EndOfShard, Failed, Final, FromWorker, Item

# The position of a shard that sends nothing more: beyond all credit.
_NO_MORE = 1 << 63


class RunCredit:
    """Credits in the order in which they were granted. The worker works them off in this order.

    Attributes:
        positions: the position of the next item to come, for each shard of the run. A transport may set it instead of
            calling :meth:`received` for each item.
    """

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        self._sent: deque[Credit] = deque()  # may hold credits that are used up, after one that is not
        self._unsent: list[Credit] = []
        self._is_open = False

    def begin(self, positions: Mapping[int, int]) -> None:
        """Begin a run, whose shards send their items from these positions on."""
        self._sent.clear()
        self._unsent.clear()
        self.positions = dict(positions)
        self._is_open = True

    def end(self) -> None:
        """End the run: no more credit is sent. The worker may still be drawing on what was sent before."""
        self._unsent.clear()
        self._is_open = False

    def add(self, credit: Credit) -> None:
        """Credit was granted."""
        last = self._unsent[-1] if self._unsent else None
        if last is not None and last.shard == credit.shard:
            self._unsent[-1] = credit  # credit is absolute, so the newer one includes the older
        else:
            self._unsent.append(credit)

    @property
    def has_unsent(self) -> bool:
        """Whether credit waits to be sent."""
        return bool(self._unsent)

    def take(self) -> Sequence[Credit]:
        """Return the credits that were not sent yet. They count as sent."""
        credits, self._unsent = self._unsent, []
        self._forget_used()
        self._sent.extend(credits)
        return credits

    def received(self, message: FromWorker) -> None:
        """A message of this run came."""
        if isinstance(message, Item):
            self.positions[message.shard] = message.position + 1
        elif isinstance(message, EndOfShard | Failed):
            self.positions[message.shard] = _NO_MORE
        elif isinstance(message, Final):
            self._sent.clear()

    @property
    def goes_on(self) -> bool:
        """Whether the worker should continue with the credit that it has."""
        return self._is_open and self.drawing is not None

    @property
    def drawing(self) -> tuple[int, int] | None:
        """Shard and position of the oldest item for which credit was sent and that has not come."""
        self._forget_used()
        if not self._sent:
            return None
        shard = self._sent[0].shard
        return shard, self.positions[shard]

    def _forget_used(self) -> None:
        sent, positions = self._sent, self.positions
        while sent and positions[sent[0].shard] >= sent[0].upto:
            sent.popleft()
