"""Ends a process that starts a worker while it imports the program's main module.

A worker imports the main module. A script without a main guard starts its loader again at this import. multiprocessing
refuses to start a process then, and the process would end with long tracebacks from the whole script. The program's first
process reports what is wrong with the script; the process that imports it writes one line.
"""

from __future__ import annotations

import inspect
import sys

GUARD = "start the loader under `if __name__ == '__main__':`"


def check() -> None:
    """Check that the calling thread is not importing the main module for multiprocessing.

    Raises:
        SystemExit: it is. An exception of another kind would print the stack of the script and of its event loop.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            print(f"asyncprefetch: a worker imports this script, which starts a worker again: {GUARD}", file=sys.stderr)
            raise SystemExit(1)
        frame = frame.f_back
