"""Optional packages: imported when they are first needed, and an error that says how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def require(package: str, extra: str, purpose: str) -> None:
    """Look whether a package is there, without importing it.

    Args:
        package: its name, as in an import.
        extra: the extra of asyncprefetch that brings it.
        purpose: what needs it, for the message.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra.
    """
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra, purpose)


def load(module: str, extra: str, purpose: str) -> Any:
    """Import ``module``, which may be one within a package; else as :func:`require`."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the package is there, and lacks something of its own
        raise _missing(package, extra, purpose) from None


def _missing(package: str, extra: str, purpose: str) -> ModuleNotFoundError:
    message = f"{purpose} needs the package {package}: pip install 'asyncprefetch[{extra}]'"
    return ModuleNotFoundError(message, name=package)
