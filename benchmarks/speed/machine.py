"""On what, and with what, something was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from onnxpfp import __version__

__all__ = ["commit", "cores", "limited", "machine", "memory"]

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LIBRARIES = ("numpy", "onnx", "scipy")
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")
REPOSITORY = Path(__file__).parents[2]


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Describe processor, cores and the versions of everything that computes."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"model name\s*: (.*)", cpu)
    wide = ", AVX-512" if " avx512f " in cpu else ""
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    runtime = next(name for name in RUNTIMES if name in installed)
    versions = [f"{name} {installed[name]}" for name in (runtime, *LIBRARIES) if name in installed]
    return (
        f"{name[1] if name else platform.machine()}, {cores()} cores{wide}; Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, onnxpfp {__version__}, {', '.join(versions)}"
    )


def commit(folder: Path = REPOSITORY) -> str:
    """Return what tells the code from that of others; of a checkout it ends in "-dirty" where files were changed."""
    if not (folder / ".git").exists():
        return f"release {__version__}"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def limited(threads: int) -> Generator[None]:
    """Let the libraries of processes that are started inside have so many threads; all are what they take anyway."""
    before = {name: os.environ.pop(name, None) for name in THREAD_VARIABLES}
    if threads < cores():
        os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def worker(process: int) -> int:
    """Return the process that works for a command: its child, where it has one (`onnxpfp.cli.supervisor`)."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    return int(children[0]) if children else process


def memory(process: int | str = "self") -> Mapping[str, int]:
    """Return the memory of a process in bytes by the names of /proc/PID/status: VmRSS now, VmHWM at its peak.

    `ru_maxrss` will not do: a process that was just started inherits that of the one that started it.
    """
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Vm")}
