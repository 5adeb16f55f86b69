"""The path of one batch from the iterator to the consumer, and the path of its credit."""

from __future__ import annotations

from tests.drawings.svg import BAND, INK, LIGHT, LINE, STRONG, Drawing

_WORKER = (
    ("your iterator", "", "yields an item"),
    ("Producer", "_worker/producer.py", "draws one item for each credit"),
    ("ItemPickler", "_wire/item_pickler.py", "pickles it at the yield"),
    ("SlotAllocator", "_worker/slot_allocator.py", "puts large arrays into a slot"),
    ("WorkerSocket", "_worker/worker_socket.py", "sends the record"),
)
_LOOP = (
    ("your async for", "", "gets the item"),
    ("Delivery", "_loop/delivery.py", "takes the head of the queue that is due"),
    ("ShardQueue", "_loop/shard_queue.py", "an asyncio queue for each shard"),
    ("WorkerHandle", "_loop/worker_handle.py", "counts it, keeps its fingerprint"),
    ("StreamTransport", "_loop/stream_transport.py", "makes messages of records"),
)
_TOP, _HIGH, _STEP, _WIDE = 66, 64, 88, 300
_LEFT, _RIGHT = 30, 550


def draw() -> str:
    """Return both paths as SVG."""
    bottom = _TOP + _STEP * 4 + _HIGH
    drawing = Drawing(
        990,
        bottom + 112,
        "A batch goes from the iterator in the worker over a socket and shared memory to a queue on the event loop and to "
        "the consumer; credit goes the other way.",
    )
    drawing.rect(_LEFT - 18, 12, _WIDE + 36, bottom + 88, fill=BAND, stroke="none")
    drawing.rect(_RIGHT - 18, 12, _WIDE + 146, bottom + 88, fill=BAND, stroke="none")
    drawing.text(_LEFT + _WIDE / 2, 36, "worker process", bold=True, fill=STRONG[1], size=16)
    drawing.text(_RIGHT + _WIDE / 2, 36, "event loop", bold=True, fill=STRONG[0], size=16)
    for n, box in enumerate(_WORKER):
        _box(drawing, _LEFT, n, box, 1)
        if n:
            _down(drawing, _LEFT, n)
    for n, box in enumerate(_LOOP):
        _box(drawing, _RIGHT, n, box, 0)
        if n:
            _up(drawing, _RIGHT, n)
    level = _TOP + _STEP * 4 + _HIGH / 2
    drawing.line((_LEFT + _WIDE, level), (_RIGHT, level), thick=2.5, tip=True)
    drawing.text((_LEFT + _WIDE + _RIGHT) / 2, level - 18, "socket", size=13)
    drawing.text((_LEFT + _WIDE + _RIGHT) / 2, level + 16, "records", size=13, fill=LINE)
    slots = _TOP + _STEP * 3 + _HIGH / 2
    drawing.line((_LEFT + _WIDE, slots), (_LEFT + _WIDE + 49, slots), dashed=True)
    drawing.rect(_LEFT + _WIDE + 49, slots - 24, 122, 48, fill=LIGHT[2], stroke=STRONG[2])
    drawing.text(_LEFT + _WIDE + 110, slots - 9, "slots in", size=13)
    drawing.text(_LEFT + _WIDE + 110, slots + 9, "shared memory", size=13)
    arrays = _TOP + _HIGH / 2
    drawing.line(
        (_LEFT + _WIDE + 110, slots - 24), (_LEFT + _WIDE + 110, arrays), (_RIGHT, arrays), dashed=True, tip=True
    )
    drawing.text(_LEFT + _WIDE + 110, arrays - 26, "arrays are read", size=13, fill=LINE)
    drawing.text(_LEFT + _WIDE + 110, arrays - 10, "in place", size=13, fill=LINE)
    # Credit goes from the delivery through the scheduler to the producer.
    edge, below = _RIGHT + _WIDE + 60, bottom + 60
    taken = _TOP + _STEP + _HIGH / 2
    drawing.line((_RIGHT + _WIDE, taken), (edge, taken), (edge, below - 26), stroke=STRONG[2], tip=True)
    drawing.rect(edge - 190, below - 26, 240, 52, stroke=STRONG[2])
    drawing.text(edge - 70, below - 10, "Scheduler", bold=True)
    drawing.text(edge - 70, below + 10, "_loop/scheduler.py", size=12, fill=LINE, mono=True)
    drawing.line((edge - 190, below), (_LEFT + _WIDE / 2, below), stroke=STRONG[2])
    drawing.text(_LEFT + _WIDE + 110, below - 14, "credit: how far each shard may go", size=13)
    producer = _TOP + _STEP + _HIGH / 2
    drawing.line(
        (_LEFT + _WIDE / 2, below),
        (_LEFT - 9, below),
        (_LEFT - 9, producer),
        (_LEFT, producer),
        stroke=STRONG[2],
        tip=True,
    )
    return drawing.svg()


def _box(drawing: Drawing, x: float, number: int, box: tuple[str, str, str], colour: int) -> None:
    name, module, does = box
    y = _TOP + _STEP * number
    drawing.rect(x, y, _WIDE, _HIGH, fill=LIGHT[colour] if module else "#ffffff", stroke=STRONG[colour])
    if not module:
        drawing.text(x + _WIDE / 2, y + 22, name, bold=True)
        drawing.text(x + _WIDE / 2, y + 43, does, size=13)
        return
    drawing.text(x + 10, y + 14, name, bold=True, anchor="start")
    drawing.text(x + 10, y + 32, module, size=11, mono=True, fill=LINE, anchor="start")
    drawing.text(x + 10, y + 50, does, size=13, anchor="start", fill=INK)


def _down(drawing: Drawing, x: float, number: int) -> None:
    y = _TOP + _STEP * number
    drawing.line((x + _WIDE / 2, y - _STEP + _HIGH), (x + _WIDE / 2, y), tip=True)


def _up(drawing: Drawing, x: float, number: int) -> None:
    y = _TOP + _STEP * number
    drawing.line((x + _WIDE / 2, y), (x + _WIDE / 2, y - _STEP + _HIGH), tip=True)
