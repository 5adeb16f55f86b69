"""Optional packages: they are imported when they are first needed. The error says how to install a missing one."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def require(package: str, extra: str, purpose: str) -> None:
    """Check that a package is installed, without importing it.

    Args:
        package: its import name.
        extra: the extra of asyncprefetch that installs it.
        purpose: what needs it; the message begins with it.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra.
    """
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra, purpose)


def load(module: str, extra: str, purpose: str) -> Any:
    """Import and return ``module``, which may be a submodule. Arguments and errors are those of :func:`require`."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the package is installed, and a dependency of it is missing
        raise _missing(package, extra, purpose) from None


def _missing(package: str, extra: str, purpose: str) -> ModuleNotFoundError:
    message = f"{purpose} needs the package {package}: pip install 'asyncprefetch[{extra}]'"
    return ModuleNotFoundError(message, name=package)
