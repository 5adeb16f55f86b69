"""Whether this interpreter runs the program itself, or a worker that imports the program's main module."""

import sys


def is_worker() -> bool:
    """Return whether this interpreter seems to have been started for workers: with ``-c``, so its main module is no file.

    It imports the program's main module, but needs less of what that imports. A wrong answer costs milliseconds, no more:
    what was not loaded is loaded when it is first used.
    """
    return not hasattr(sys.modules["__main__"], "__file__")
