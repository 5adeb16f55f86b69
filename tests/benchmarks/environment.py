"""What the figures depend on, to go with them. Nothing that names the machine or its user."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import asyncprefetch


def describe(packages: Iterable[str]) -> dict[str, str]:
    """The machine and the versions of everything that takes part."""
    found = {
        "processor": _processor(),
        "usable cores": str(_usable_cores()),
        "kernel": f"{platform.system()} {platform.release()}",
        "C library": " ".join(platform.libc_ver()).strip() or "unknown",
        "transparent huge pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "Python": platform.python_version(),
        "asyncprefetch": asyncprefetch.__version__,
    }
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _processor() -> str:
    lines = _read("/proc/cpuinfo").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _chosen(path: str) -> str:
    """Of a line like ``always [madvise] never``, what is in brackets."""
    return _read(path).partition("[")[2].partition("]")[0] or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
