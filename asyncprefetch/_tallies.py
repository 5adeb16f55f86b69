"""What the iterators of this process count beside their items, until somebody collects it."""

from __future__ import annotations

from collections import Counter

_counts: Counter[str] = Counter()


def add(name: str, n: int) -> None:
    """Count ``n`` more of what is called ``name``."""
    _counts[name] += n


def drain() -> dict[str, int]:
    """What was counted since the last call."""
    counts = dict(_counts)
    _counts.clear()
    return counts
