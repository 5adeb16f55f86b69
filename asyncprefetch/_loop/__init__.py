"""The event loop's side: what is known of each shard, who gets credit, the order of delivery, and how workers are ended.

A worker imports the program's main module, which imports the loader's class, and needs none of what needs asyncio. There
it is loaded at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncprefetch._codec.program import is_worker

if TYPE_CHECKING:
    from asyncprefetch._loop.core import Core
    from asyncprefetch._loop.threads import in_file_thread, in_thread

__all__ = ["Core", "in_file_thread", "in_thread"]

_MODULE_OF = {"Core": "core", "in_file_thread": "threads", "in_thread": "threads"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


if not is_worker():  # the first loader of a program should not have to wait for it
    for _name in __all__:
        __getattr__(_name)
