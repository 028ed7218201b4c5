"""What Linux's control groups leave of a machine to this process: processors by time, and memory.

A container or a service may be given half a processor, or a part of the memory, on a machine that shows all of them.
Both versions are read (https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1 beside it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

__all__ = ["GroupLimits", "group_limits"]

_Number = TypeVar("_Number", int, float)
_UNIFIED: Final = "cgroup2"


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """The strictest limits of the process's groups and of those that they lie in.

    Attributes:
        cpus: Processor seconds a second; None where there is no limit.
        memory_bytes: Bytes of memory; None where there is no limit.
    """

    cpus: float | None
    memory_bytes: int | None


def group_limits(root: Path = Path("/")) -> GroupLimits:
    """The limits of this process; none where the system has no control groups.

    Args:
        root: The root of the file system, another one in tests.
    """
    groups = list(_directories(root, "cpu"))
    quotas = [found for one in groups if (found := _read(_cpus, one)) is not None]
    sizes = [found for one in _directories(root, "memory") if (found := _read(_memory, one)) is not None]
    return GroupLimits(min(quotas, default=None), min(sizes, default=None))


def _cpus(group: Path) -> float | None:
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return None if quota in {"max", "-1"} else round(int(quota) / int(period), 4)


def _memory(group: Path) -> int | None:
    name = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
    limit = (group / name).read_text().strip()
    # Version 1 says "no limit" by the largest number of pages.
    return None if limit == "max" or int(limit) >= 1 << 62 else int(limit)


def _read(what: Callable[[Path], _Number | None], group: Path) -> _Number | None:
    """A limit of a group; None where it has none, as the topmost one of all has no files of limits."""
    try:
        return what(group)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _directories(root: Path, controller: str) -> Iterator[Path]:
    """The directories of the process's groups for a controller, each with those above it."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for top, mounted in _mounts(mounts, controller if controllers else None):
            within = PurePosixPath(path)
            # A path outside of what is mounted is of another namespace; what is mounted is then what can be seen.
            below = within.relative_to(top) if within.is_relative_to(top) else PurePosixPath()
            directory = root / mounted.relative_to("/")
            yield directory
            for part in below.parts:
                directory /= part
                yield directory


def _mounts(lines: list[str], controller: str | None) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Where a controller of version 1 is mounted, or for None version 2: the group at the top, and the directory."""
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        wanted = kind == _UNIFIED if controller is None else kind == "cgroup" and controller in options.split(",")
        if wanted:
            top, mounted = (PurePosixPath(_unescaped(one)) for one in before.split(" ")[3:5])
            yield top, mounted


def _unescaped(path: str) -> str:
    """A path of ``mountinfo``, which has spaces and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)
