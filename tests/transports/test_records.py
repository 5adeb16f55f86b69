"""The reader returns the written records and orders, wherever the socket cuts them."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from tests.inside import (
    NO_SLOT,
    Credit,
    EndOfShard,
    Failed,
    Final,
    Hello,
    Log,
    RecordReader,
    Release,
    RemoteError,
    State,
    Stop,
    records,
)

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
CUTS = st.lists(st.integers(1, 300) | st.integers(1, 5), min_size=1)

ORDERS = st.builds(Credit, U32, U32, U64) | st.builds(Stop, U32) | st.builds(Release, U32)
PACK = {Credit: records.pack_credit, Stop: records.pack_stop, Release: lambda order: records.pack_release(order.slot)}

BODIES = st.binary(max_size=9) | st.builds(
    lambda part, n: part * n, st.binary(min_size=1, max_size=9), st.integers(0, 99)
)
ITEMS = st.tuples(
    BODIES,
    st.integers(1, 7),
    st.tuples(U32, U32, U64),
    U32,
    st.just((NO_SLOT, 0)) | st.tuples(st.integers(0, 2**31 - 1), U64),
)
ERROR = RemoteError("next", "ValueError", ("ValueError",), "text", "Traceback", None)
MESSAGES = st.one_of(
    st.builds(Hello, U32),
    st.builds(State, U32, U32, U64, BODIES),
    st.builds(EndOfShard, U32, U32, U64),
    st.builds(Failed, U32, U32, U64, st.just(ERROR)),
    st.builds(Final, U32),
    st.builds(Log, BODIES),
)


def pack_item(frame, marks, where, fingerprint, in_slot):
    return records.pack_header(len(frame), marks, *where, fingerprint, *in_slot) + frame


def pieces(data, cuts):
    """Yield the data in pieces of these sizes, which repeat."""
    cut = 0
    while data:
        size = cuts[cut % len(cuts)]
        yield data[:size]
        data, cut = data[size:], cut + 1


def read(reader, data, cuts):
    """Read all records like the loader's end of the socket."""
    records, cut = [], 0
    while data:
        room = reader.room
        size = min(cuts[cut % len(cuts)], len(data), len(data) if room is None else len(room))
        if room is None:
            records += reader.feed(data[:size])
        else:
            room[:size] = data[:size]
            records += reader.filled(size)
        data, cut = data[size:], cut + 1
    return records


@given(st.lists(ITEMS | MESSAGES, max_size=8), CUTS)
def test_records_come_out_as_they_went_in_wherever_they_are_cut(sent, cuts):
    reader = RecordReader()
    data = b"".join(pack_item(*it) if type(it) is tuple else records.pack_message(it) for it in sent)
    received = read(reader, data, cuts)
    assert len(received) == len(sent)
    for it, (header, body) in zip(sent, received, strict=True):
        if type(it) is tuple:
            frame, marks, where, fingerprint, in_slot = it
            assert header == (len(frame), marks, *where, fingerprint, *in_slot)
            assert body == frame
        else:
            assert header[1] == 0
            assert pickle.loads(body) == it
    assert reader.room is None
    assert reader.feed(records.pack_message(Hello(1)))[0][1] == pickle.dumps(Hello(1), 5)


def test_a_large_record_is_read_to_where_it_stays():
    reader = RecordReader()
    data = pack_item(b"x" * 1000, 1, (1, 2, 3), 4, (NO_SLOT, 0))
    assert reader.feed(data[:300]) == []
    room = reader.room
    assert len(room) == len(data) - 300
    room[:] = data[300:]
    ((_, body),) = reader.filled(len(room))
    assert room.obj is body
    assert body == b"x" * 1000


@given(st.lists(ORDERS, max_size=8), CUTS)
def test_orders_come_out_as_they_went_in_wherever_they_are_cut(sent, cuts):
    got, rest = [], b""
    for piece in pieces(b"".join(PACK[type(order)](order) for order in sent), cuts):
        orders, rest = records.unpack_orders(rest + piece)
        got += orders
    assert got == sent
    assert rest == b""


@given(U64, U64)
def test_a_span_comes_out_as_it_went_in(offset, length):
    assert records.unpack_span(records.pack_span(offset, length)) == (offset, length)
    assert records.unpack_span(bytearray(records.pack_span(offset, length))) == (offset, length)
