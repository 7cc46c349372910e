"""How much memory there is, so that what a file asks for can be refused before it is taken."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["amount_text", "memory_limit"]

_CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_limit() -> int:
    """Return the bytes that this process may ever have: of the machine, its container, and `ulimit`."""
    limits = [sys.maxsize]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CONTROL_GROUPS:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        # "max" is no limit.
        limits += [int(text)] if text.isdigit() else []
    if sys.platform != "win32":
        import resource

        for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            soft = resource.getrlimit(kind)[0]
            limits += [soft] if soft != resource.RLIM_INFINITY else []
    return min(limit for limit in limits if limit > 0)


def amount_text(size: int) -> str:
    """Write an amount of memory for people."""
    value, units = float(size), iter(("bytes", "kB", "MB", "GB", "TB", "PB", "EB"))
    unit = next(units)
    while value >= 1000 and unit != "EB":
        value, unit = value / 1000, next(units)
    return f"{size} bytes" if unit == "bytes" else f"{value:,.1f} {unit}"
