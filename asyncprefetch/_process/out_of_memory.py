"""How many processes of this process's control group the kernel has ended for lack of memory.

Such a process dies of SIGKILL, as others do. Only this count gives the reason. Version 2 of the groups keeps it in
``memory.events``, version 1 in ``memory.oom_control``.
"""

from __future__ import annotations

from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


def kills(groups: Path = _GROUPS, mounted: Path = _MOUNTED) -> int | None:
    """The count, or ``None`` where it can't be read.

    Args:
        groups: the file that names the groups of this process.
        mounted: where the groups are mounted.
    """
    try:
        lines = groups.read_text().splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            file, mounts = "memory.oom_control", ["memory"]
        elif number == "0" and not controllers:
            file, mounts = "memory.events", ["", "unified"]
        else:
            continue
        for mount in mounts:
            # A container may see the groups of the host by their names, and its own one only at the mount.
            for folder in (mounted / mount / path.lstrip("/"), mounted / mount):
                count = _count(folder / file)
                if count is not None:
                    return count
    return None


def _count(file: Path) -> int | None:
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None
