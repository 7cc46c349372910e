"""What this machine is called, for people to read."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["device_name"]

_CPUS = Path("/proc/cpuinfo")
"""Linux says there what the processor is; `platform.processor` does not."""


def device_name() -> str:
    """Name the processor as far as it is known, how many cores it has, and the system."""
    name = platform.processor() or platform.machine()
    if _CPUS.exists():
        lines = _CPUS.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
