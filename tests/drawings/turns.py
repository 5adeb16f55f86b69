"""Three shards take strict turns, and one of them ends early."""

from __future__ import annotations

from tests.drawings.svg import BAND, INK, LIGHT, LINE, PAPER, STRONG, Drawing

_ITEMS = (5, 2, 4)
_LEFT, _TOP, _WIDE, _HIGH, _BOX = 120, 64, 66, 64, 46


def _order() -> list[tuple[int, int | None]]:
    """Return the shard and the item of each turn. The item is ``None`` where the turn finds the shard at its end."""
    shards, drawn, at = list(range(len(_ITEMS))), [0] * len(_ITEMS), 0
    turns: list[tuple[int, int | None]] = []
    while shards:
        shard = shards[at % len(shards)]
        if drawn[shard] < _ITEMS[shard]:
            turns.append((shard, drawn[shard]))
            drawn[shard] += 1
            at = (at + 1) % len(shards)
        else:
            turns.append((shard, None))
            at = shards.index(shard)
            shards.remove(shard)
    return turns


def draw() -> str:
    """Return the turns as SVG."""
    turns = _order()
    bottom = _TOP + _HIGH * len(_ITEMS)
    drawing = Drawing(
        _LEFT + _WIDE * len(turns) + 24,
        bottom + 104,
        "Three shards take strict turns. Shard B ends after two items: it drops out at its turn, and A and C go on.",
    )
    drawing.text(_LEFT - 20, 28, "turn", anchor="end", fill=LINE)
    for row in range(len(_ITEMS)):
        top = _TOP + _HIGH * row
        drawing.rect(8, top + 4, _LEFT + _WIDE * len(turns) + 4, _HIGH - 8, fill=BAND, stroke="none")
        drawing.text(24, top + _HIGH / 2, f"shard {'ABC'[row]}", anchor="start", bold=True, fill=STRONG[row])
    centres = [(_LEFT + _WIDE * (n + 0.5), _TOP + _HIGH * (shard + 0.5)) for n, (shard, _) in enumerate(turns)]
    drawing.line(*centres, dashed=True)
    delivered = 0
    for n, (shard, item) in enumerate(turns):
        x, y = centres[n]
        drawing.text(x, 28, str(n + 1), size=12, fill=LINE)
        if item is None:
            drawing.rect(
                x - _BOX / 2, y - _BOX / 2, _BOX, _BOX, fill=PAPER, stroke=STRONG[shard], dashed=True, round_=23
            )
            drawing.text(x, y, "end", size=13, fill=STRONG[shard])
            continue
        name = f"{'ABC'[shard]}{item}"
        drawing.rect(x - _BOX / 2, y - _BOX / 2, _BOX, _BOX, fill=LIGHT[shard], stroke=STRONG[shard])
        drawing.text(x, y, name, bold=True, fill=INK)
        to = _LEFT + 42 * (delivered + 0.5) + 72
        drawing.rect(to - 18, bottom + 44, 36, 36, fill=LIGHT[shard], stroke=STRONG[shard])
        drawing.text(to, bottom + 62, name, size=13, bold=True)
        delivered += 1
    drawing.text(24, bottom + 62, "the consumer gets", anchor="start", bold=True)
    drawing.text(
        _LEFT + 75,
        bottom + 24,
        "A shard that has ended drops out at its turn and delivers nothing.",
        anchor="start",
        size=13,
    )
    return drawing.svg()
