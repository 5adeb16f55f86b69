"""How credit bounds the number of batches: five moments of a loader with ``n_batches_to_prefetch=4``."""

from __future__ import annotations

from tests.drawings.svg import BAND, INK, LIGHT, LINE, PAPER, STRONG, Drawing

_LEFT, _TOP, _HIGH, _BOX, _STEP = 24, 84, 66, 40, 50
_CREDIT, _QUEUE, _TAKEN, _WORDS = 24, 248, 472, 580

# Each moment has the open credit, the batches in the queue, the batch that the loader delivers, and an explanation.
_MOMENTS = (
    ((0, 1, 2, 3), (), None, ("The loader starts. It grants credit for", "four batches; workers may make so many.")),
    ((2, 3), (0, 1), None, ("Two batches have come.", "Made and granted are still four together.")),
    ((), (0, 1, 2, 3), None, ("The consumer is busy. All credit is used:", "the workers draw nothing and wait.")),
    ((4,), (1, 2, 3), 0, ("The consumer takes batch 0.", "Its credit goes back: batch 4 may be made.")),
    (
        (),
        (1, 2, 3),
        None,
        ("get_state(): the open credit lapses, the queue", "and the iterators' states are the checkpoint."),
    ),
)


def draw() -> str:
    """Return the moments as SVG."""
    drawing = Drawing(
        920,
        _TOP + _HIGH * len(_MOMENTS) + 24,
        "Credit bounds what is made: credit that is open and batches in the queue are together at most "
        "n_batches_to_prefetch.",
    )
    drawing.text(_CREDIT, 26, "n_batches_to_prefetch = 4", anchor="start", bold=True, mono=True)
    drawing.text(_CREDIT, 60, "open credit", anchor="start", bold=True, fill=LINE)
    drawing.text(_QUEUE, 60, "in the queue", anchor="start", bold=True, fill=STRONG[0])
    drawing.text(_TAKEN, 60, "delivered", anchor="start", bold=True, fill=STRONG[2])
    for row, (credit, queue, taken, words) in enumerate(_MOMENTS):
        y = _TOP + _HIGH * row
        drawing.rect(8, y + 3, 904, _HIGH - 6, fill=BAND, stroke="none")
        middle = y + _HIGH / 2
        for place, number in enumerate(credit):
            _credit(drawing, _CREDIT + place * _STEP, middle, number)
        for place, number in enumerate(queue):
            _batch(drawing, _QUEUE + place * _STEP, middle, number, 0)
        if taken is not None:
            _batch(drawing, _TAKEN + 16, middle, taken, 2)
        for n, line in enumerate(words):
            drawing.text(_WORDS, middle - 9 + 18 * n, line, anchor="start", size=13)
    return drawing.svg()


def _credit(drawing: Drawing, x: float, middle: float, number: int) -> None:
    drawing.rect(x, middle - _BOX / 2, _BOX, _BOX, fill=PAPER, stroke=LINE, dashed=True)
    drawing.text(x + _BOX / 2, middle, str(number), fill=LINE)


def _batch(drawing: Drawing, x: float, middle: float, number: int, colour: int) -> None:
    drawing.rect(x, middle - _BOX / 2, _BOX, _BOX, fill=LIGHT[colour], stroke=STRONG[colour])
    drawing.text(x + _BOX / 2, middle, str(number), bold=True, fill=INK)
