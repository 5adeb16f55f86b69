"""The bytes that cross the socket of the stream transport.

From the loader come orders, all of one length. From the worker come records: a header, and a body of the length that it
tells. An item's body is its frame, or the place of its frame in the slot; of every other message it is the message, pickled.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass

from asyncprefetch._wire.messages import Credit, FromWorker, Stop


@dataclass(frozen=True, slots=True)
class Release:
    """To the worker: nothing on the loader's side lies on the slot any more."""

    slot: int


_CREDIT, _STOP, _RELEASE = range(3)
_ORDER = struct.Struct("<BIIQ")  # kind, run, shard or slot, upto


def pack_credit(credit: Credit) -> bytes:
    """An order as bytes."""
    return _ORDER.pack(_CREDIT, credit.run, credit.shard, credit.upto)


def pack_stop(stop: Stop) -> bytes:
    """An order as bytes."""
    return _ORDER.pack(_STOP, stop.run, 0, 0)


def pack_release(slot: int) -> bytes:
    """An order as bytes."""
    return _ORDER.pack(_RELEASE, 0, slot, 0)


def unpack_orders(data: bytes) -> tuple[list[Credit | Stop | Release], bytes]:
    """The whole orders in ``data``, and what is left of it."""
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


# What the body of a record is, as bits. Plain numbers: they are looked at once a batch.
ITEM = 1  # an item's frame; else a pickled message
IN_SLOT = 2  # the frame lies in the slot, and this is its place
TENSORS = 4  # opening the item takes torch

Place = tuple[int, int]
"""An item's slot, and how many bytes from the slot's beginning it takes at most."""

NO_SLOT = -1
NO_PLACE: Place = (NO_SLOT, 0)
_HEADER = struct.Struct("<QBIIQIiQ")
_PLACE = struct.Struct("<QQ")


Header = tuple[int, int, int, int, int, int, int, int]
"""Length of the body, marks; and of an item: run, shard, position, fingerprint, slot, extent."""

Record = tuple[Header, bytes | bytearray]


def pack_place(offset: int, length: int) -> bytes:
    """The body in place of a frame that lies in the slot."""
    return _PLACE.pack(offset, length)


def unpack_place(body: bytes | bytearray) -> tuple[int, int]:
    """Offset and length of the frame in the slot."""
    offset, length = _PLACE.unpack(body)
    return offset, length


def pack_item(frame: bytes, marks: int, where: tuple[int, int, int], fingerprint: int, place: Place) -> bytes:
    """An item's record.

    Args:
        frame: its frame, or what tells of the frame's place.
        marks: which of the two, and what else.
        where: run, shard and position.
        fingerprint: the item's.
        place: where in the slots it lies.
    """
    return _HEADER.pack(len(frame), marks, *where, fingerprint, *place) + frame


def pack_message(message: FromWorker) -> bytes:
    """The record of any other message."""
    body = pickle.dumps(message, 5)
    return _HEADER.pack(len(body), 0, 0, 0, 0, 0, *NO_PLACE) + body


class RecordReader:
    """Cuts what comes from the socket into records, however it was cut on its way."""

    def __init__(self) -> None:
        self._rest = b""
        self._header: Header | None = None  # of the large record that is coming in
        self._large = bytearray()
        self._filled = 0

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes go, if they are of a large record: it is then not copied again."""
        return memoryview(self._large)[self._filled :] if self._header is not None else None

    def filled(self, size: int) -> list[Record]:
        """So many bytes were put into ``room``: the record, if that was all of it."""
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
        self._large = bytearray(header[0])  # first, for there may be no memory for it
        self._header = header
        self._large[: len(beginning)] = beginning
        self._filled = len(beginning)
