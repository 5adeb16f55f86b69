"""The bytes that cross the socket of the stream transport.

The loader sends orders, all of one length. The worker sends records: a header, and a body whose length is in the header. The
body of an item is its frame, or the frame's span in the item's slot. The body of any other message is the message, pickled.
"""

import pickle
import struct
from typing import NamedTuple

from asyncprefetch._wire.messages import Credit, FromWorker, Stop


class Release(NamedTuple):
    """To the worker: nothing on the loader's side refers to the slot."""

    slot: int


_CREDIT, _STOP, _RELEASE = range(3)
_ORDER = struct.Struct("<BIIQ")  # kind, run, shard or slot, upto


def pack_credit(credit: Credit) -> bytes:
    """The order as bytes."""
    return _ORDER.pack(_CREDIT, credit.run, credit.shard, credit.upto)


def pack_stop(stop: Stop) -> bytes:
    """The order as bytes."""
    return _ORDER.pack(_STOP, stop.run, 0, 0)


def pack_release(slot: int) -> bytes:
    """The order as bytes."""
    return _ORDER.pack(_RELEASE, 0, slot, 0)


def unpack_orders(data: bytes) -> tuple[list[Credit | Stop | Release], bytes]:
    """The whole orders in ``data``, and the bytes that are left."""
    whole = len(data) - len(data) % _ORDER.size
    orders: list[Credit | Stop | Release] = []
    for kind, run, number, upto in _ORDER.iter_unpack(memoryview(data)[:whole]):
        if kind == _CREDIT:
            orders.append(Credit(run, number, upto))
        elif kind == _RELEASE:
            orders.append(Release(number))
        else:
            orders.append(Stop(run))
    return orders, data[whole:]


# The marks of a record: bits that say what its body is. Plain numbers, because they are read once a batch.
ITEM = 1  # an item's frame; else a pickled message
IN_SLOT = 2  # the frame lies in the slot, and the body is its span
TENSORS = 4  # loading the item needs torch

NO_SLOT = -1
"""In place of an item's slot: the item needs none, and its extent is 0."""

_HEADER = struct.Struct("<QBIIQIiQ")
_SPAN = struct.Struct("<QQ")

Header = tuple[int, int, int, int, int, int, int, int]
"""Length of the body and marks; and for an item: run, shard, position, fingerprint, slot and extent.

The extent is how many bytes from the slot's beginning the item takes at most.
"""

Record = tuple[Header, bytes | bytearray]

# The two that are called once a batch are the functions of struct themselves.
pack_header = _HEADER.pack
"""The header of an item's record, from the fields of :data:`Header`."""

pack_span = _SPAN.pack
"""The body in place of a frame that lies in the slot, from the frame's offset and length."""


def unpack_span(body: bytes | bytearray) -> tuple[int, int]:
    """Offset and length of the frame in the slot."""
    offset, length = _SPAN.unpack(body)
    return offset, length


def pack_message(message: FromWorker) -> bytes:
    """The record of a message that is not an item."""
    body = pickle.dumps(message, 5)
    return _HEADER.pack(len(body), 0, 0, 0, 0, 0, NO_SLOT, 0) + body


class RecordReader:
    """Cuts the bytes from the socket into records, however they were split on their way."""

    def __init__(self) -> None:
        self._rest = b""
        self._header: Header | None = None  # the header of a large record that is still incomplete
        self._large = bytearray()
        self._filled = 0

    @property
    def room(self) -> memoryview | None:
        """Where to read the next bytes to, if they belong to a large record: it is then not copied again."""
        return memoryview(self._large)[self._filled :] if self._header is not None else None

    def filled(self, size: int) -> list[Record]:
        """Take note of ``size`` bytes that were read to ``room``. Returns the record if it is complete."""
        self._filled += size
        if self._header is None or self._filled < len(self._large):
            return []
        record = self._header, self._large
        self._header, self._large, self._filled = None, bytearray(), 0
        return [record]

    def feed(self, data: bytes) -> list[Record]:
        """The records that are complete with ``data``."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        records: list[Record] = []
        begin, end = 0, len(data)
        size, unpack = _HEADER.size, _HEADER.unpack_from
        while end - begin >= size:
            header: Header = unpack(data, begin)
            body = begin + size
            begin = body + header[0]
            if begin > end:
                self._expect(header, data[body:])
                return records
            records.append((header, data[body:begin]))
        self._rest = data[begin:]
        return records

    def _expect(self, header: Header, beginning: bytes) -> None:
        self._large = bytearray(header[0])  # first, because there may be too little memory for it
        self._header = header
        self._large[: len(beginning)] = beginning
        self._filled = len(beginning)
