"""What iterators count while they run, documents passed over for instance: on its way to the loader's statistics."""

from __future__ import annotations

from collections import Counter

_counted: Counter[str] = Counter()


def add(name: str, count: int = 1) -> None:
    """Count so many of what ``name`` says."""
    _counted[name] += count


def pending() -> bool:
    """Whether anything was counted since the last drain."""
    return bool(_counted)


def drain() -> dict[str, int]:
    """What was counted since the last call."""
    counted = dict(_counted)
    _counted.clear()
    return counted
