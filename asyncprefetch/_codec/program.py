"""Whether this interpreter runs the program itself, or a worker that imports the program's main module."""

import sys


def is_worker() -> bool:
    """Return whether this interpreter seems to have been started for workers: by ``-c``, with a main module that is no file.

    It imports the program's main module, but needs less of what that imports. A program that is given by ``-c`` looks the
    same: what was not loaded is then loaded at its first use, and pydantic finds a mistake in a state's fields only then.
    """
    # Not sys.argv, which multiprocessing sets to the program's before it imports the main module.
    return "-c" in sys.orig_argv and not hasattr(sys.modules["__main__"], "__file__")
