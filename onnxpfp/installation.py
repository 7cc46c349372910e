"""Which packages are installed, and what is wrong with that.

None of them needs to work for it: nothing is imported here but what Python has.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

__all__ = [
    "ProviderState",
    "SupportedFiles",
    "broken_packages",
    "clashing_runtimes",
    "installed_runtimes",
    "installed_versions",
]

PACKAGES = ("onnx", "numpy", "scipy", "onnx-graphsurgeon", "threadpoolctl", "click", "rich")
"""What onnxpfp needs beside onnxruntime."""
MODULES = {"numpy": "ndarray", "scipy": "__version__", "onnx": "ModelProto", "onnxruntime": "InferenceSession"}
"""Modules that may be there and broken, and what each has if it is not."""
RUNTIMES = re.compile(
    r"onnxruntime(-(gpu|directml|openvino|rocm|migraphx|training|silicon|qnn|cann|vitisai|dnnl|tvm|windowsml))?"
)
"""Packages that bring a module of the name onnxruntime; -extensions and -genai do not."""


@dataclass(frozen=True, slots=True)
class ProviderState:
    """One execution provider that the installed onnxruntime has.

    Attributes:
        name: Its onnxruntime name.
        works: Whether a network ran on it, with the right result.
        reason: Why not; else empty.
        hint: What to do about it; likewise.
    """

    name: str
    works: bool
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SupportedFiles:
    """The newest files that can be read.

    Attributes:
        opset: Of the domain ai.onnx.
        ir_version: Of the format.
    """

    opset: int
    ir_version: int


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that are needed, those of onnxruntime first; one that is missing has none."""
    found = {name: _version(name) for name in (*installed_runtimes(), *PACKAGES)}
    return {name: version for name, version in found.items() if version}


def installed_runtimes() -> list[str]:
    """Return the names of all packages that bring onnxruntime."""
    names = {re.sub(r"[-_.]+", "-", each.name).lower() for each in metadata.distributions() if each.name}
    return sorted(name for name in names if RUNTIMES.fullmatch(name))


def clashing_runtimes(runtimes: Sequence[str]) -> tuple[str, str] | None:
    """Say that several packages bring the same module, and what to do; None where they do not.

    The one that was installed last has overwritten files of the others: CUDA vanishes where it is the CPU's, and
    uninstalling one takes files of the other away.

    Args:
        runtimes: The packages.
    """
    if len(runtimes) < 2:
        return None
    keep = next((name for name in runtimes if name == "onnxruntime-gpu"), runtimes[0])
    hint = f"pip uninstall -y {' '.join(runtimes)} && pip install {keep}"
    return f"{' and '.join(runtimes)} are installed at once and overwrite each other's files", hint


def broken_packages() -> Iterator[tuple[str, str]]:
    """Yield what is wrong with modules that cannot be loaded or are empty, and what to do about it."""
    for module, has in MODULES.items():
        package = module if module != "onnxruntime" else next(iter(installed_runtimes()), "onnxruntime")
        try:
            loaded = importlib.import_module(module)
        except Exception as error:
            # What a broken package raises is its own affair.
            yield f"{module} cannot be loaded: {type(error).__name__}: {error}", f"pip install {package}"
            continue
        if not hasattr(loaded, has):
            what = f"{module} is there but empty, as after uninstalling one of two packages that bring it"
            yield what, f"pip install --force-reinstall {package}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
