"""Stateful iterators for the tests. Each is at the top level of a module, so that workers can import it."""

MODULES = [
    f"{__name__}.{name}"
    for name in (
        "arrays",
        "counting",
        "dying",
        "failing",
        "functions",
        "gates",
        "items",
        "reporting",
        "unpickling",
    )
]
# A worker starts several times faster if the fork server has imported what it needs.
PRELOAD = ["asyncprefetch.executors", *MODULES]
