"""The loader's end of the socket: it reports a failure of the socket, and an ended worker is no error."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.inside import LoaderSocket
from tests.transports.sides import alarm_in


class End:
    """A loader's end of a socket, the errors that it reported, and the worker's end."""

    def __init__(self):
        self.socket, self.worker = socket.socketpair()
        self.worker.setblocking(False)
        self.errors = []
        self.end = LoaderSocket(self.socket, lambda records: None, self.errors.append)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end.close()
        self.worker.close()

    def fill(self):
        """Write orders until some of them wait. Return the number of bytes."""
        size = 0
        while not self.end._unsent:
            self.end.write(b"order" * 1000)
            size += 5000
        return size

    def drain(self):
        """Return the number of bytes that the worker can read now."""
        size = 0
        try:
            while data := self.worker.recv(1 << 16):
                size += len(data)
        except BlockingIOError:
            pass
        return size


@pytest.mark.both_loops
async def test_orders_for_which_there_is_no_room_are_sent_when_there_is():
    with End() as both:
        size = both.fill()
        got = 0
        while got < size:
            got += both.drain()
            await asyncio.sleep(0)
        assert got == size
        assert both.errors == []


@pytest.mark.parametrize("call", ["recv_into", "send", "shutdown"])
async def test_an_alarm_in_a_call_is_reported_and_ends_reading_and_writing(call):
    with End() as both:
        alarm_in(both.socket, call)
        both.worker.send(b"a record")
        both.end.write(b"orders")
        both.end.read()
        both.end.end_orders()
        assert [type(error) for error in both.errors] == [TimeoutError]
        both.drain()
        both.end.write(b"more orders")
        assert both.drain() == 0
        assert both.end.read() is False


async def test_an_alarm_while_waiting_orders_are_sent_is_reported_and_the_others_are_not_sent():
    with End() as both:
        size = both.fill()
        got = both.drain()
        alarm_in(both.socket, "send")
        while not both.errors:
            await asyncio.sleep(0)
        assert [type(error) for error in both.errors] == [TimeoutError]
        got += both.drain()
        both.end.write(b"more orders")
        await asyncio.sleep(0)
        assert got + both.drain() < size


@pytest.mark.both_loops
async def test_a_worker_that_is_gone_is_no_error():
    with End() as both:
        both.end.write(b"orders that are not read")
        both.worker.close()
        both.end.write(b"orders after the end")
        assert both.end.read() is False
        both.end.end_orders()
        assert both.errors == []


@pytest.mark.both_loops
async def test_a_worker_that_goes_while_orders_wait_is_no_error():
    with End() as both:
        both.fill()
        both.worker.close()
        while both.end._unsent:
            await asyncio.sleep(0)
        assert both.errors == []
