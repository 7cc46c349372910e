"""Execution providers by short names, and why one is not there.

`onnxruntime.get_available_providers()` is a fact about the build, not about the machine: only a session that was
created knows where it runs. So names are resolved here, and `explain_missing` is asked afterwards.
"""

from __future__ import annotations

import ctypes
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxpfp.errors import OptionError, ProviderError

__all__ = ["CPU", "CUDA", "TENSORRT", "ProviderRequest", "explain_fallback", "explain_missing", "resolve_providers"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_NAMES = {
    "cpu": CPU,
    "cuda": CUDA,
    "trt": TENSORRT,
    "tensorrt": TENSORRT,
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_WITH_DEVICE = frozenset({CUDA, TENSORRT, "ROCMExecutionProvider", "DmlExecutionProvider"})
# TF32 keeps 10 bits of mantissa: sensitivities would be off by 1e-3. The exhaustive search, which is the default, times
# every algorithm for every convolution of a probe.
_OPTIONS = {CUDA: (("use_tf32", "0"), ("cudnn_conv_algo_search", "HEURISTIC"))}
_CUDA_LIBRARIES = (
    ("libcuda.so.1", "no NVIDIA driver (libcuda.so.1 cannot be loaded)"),
    ("libcudart.so.13", "CUDA 13 runtime (libcudart.so.13 cannot be loaded)"),
    ("libcublasLt.so.13", "CUDA 13 cuBLAS (libcublasLt.so.13 cannot be loaded)"),
    ("libcudnn.so.9", "cuDNN 9 (libcudnn.so.9 cannot be loaded)"),
)

_WITH_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]', which the extra 'cuda' of onnxpfp brings, too"
NAMED = 3
"""Most nodes that an error lists."""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One execution provider that was asked for.

    Attributes:
        name: Its onnxruntime name.
        asked: How the user wrote it.
        options: Provider options as (key, value) pairs.
        strict: Whether a node that it cannot run is an error; else the CPU runs it.
    """

    name: str
    asked: str
    options: tuple[tuple[str, str], ...] = ()
    strict: bool = False


def resolve_providers(spec: str | Sequence[str] = "cpu", *, strict: bool = False) -> tuple[ProviderRequest, ...]:
    """Turn `"cuda:1,cpu"`, or a sequence of such names, into provider requests in priority order.

    Args:
        spec: The names.
        strict: Whether a node that none of them can run is an error, in place of a task for the CPU.

    Raises:
        ProviderError: A name is unknown or none is given.
        OptionError: The CPU is named where it may run nothing.
    """
    words = spec.split(",") if isinstance(spec, str) else list(spec)
    requests = [_resolve(word.strip()) for word in words if word.strip()]
    if not requests:
        raise ProviderError("no execution provider is named", hint="try cpu or cuda")
    unique = {request.name: request for request in reversed(requests)}
    if strict and CPU in unique:
        raise OptionError(
            f"--strict-providers keeps every node from the CPU, and --providers {unique[CPU].asked} names it",
            hint="name others only: --providers cuda",
        )
    return tuple(replace(request, strict=strict) for request in requests if unique[request.name] is request)


def _resolve(word: str) -> ProviderRequest:
    short, _, device = word.partition(":")
    name = _NAMES.get(short.lower()) or _full_names().get(short.lower())
    if name is None:
        close = difflib.get_close_matches(short.lower(), [*_NAMES, *_full_names()], n=3)
        known = ", ".join(_NAMES)
        raise ProviderError(
            f"unknown execution provider {word!r}",
            hint=f"did you mean {' or '.join(close)}?" if close else f"known are {known}",
        )
    options = _OPTIONS.get(name, ())
    if device:
        if not device.isdecimal() or name not in _WITH_DEVICE:
            raise ProviderError(f"{word!r} does not name a device", hint="write cuda:0, cuda:1 and so on")
        options = (("device_id", device), *options)
    return ProviderRequest(name, word, options)


def _full_names() -> dict[str, str]:
    """Return the names that onnxruntime knows, by how they are written in small letters."""
    ort: Any = importlib.import_module("onnxruntime")
    return {name.lower(): name for name in (*_NAMES.values(), *ort.get_all_providers())}


def explain_missing(request: ProviderRequest, *, in_build: bool) -> ProviderError:
    """Say in one line why a requested provider does not run.

    Args:
        request: What was asked for.
        in_build: Whether the installed onnxruntime was built with it.
    """
    if not in_build:
        of_cuda = request.name in (CUDA, TENSORRT)
        return ProviderError(
            f"{request.asked} was asked for, but the installed onnxruntime has no {request.name}",
            hint=_WITH_CUDA if of_cuda else "install the onnxruntime for it",
        )
    if request.name not in (CUDA, TENSORRT):
        return ProviderError(
            f"{request.asked} was asked for, but onnxruntime could not start {request.name}",
            hint="check its driver and device, or run on cpu",
        )
    missing = _missing_libraries()
    reason = "; ".join(missing) or "its libraries load, but it finds no device that it can use"
    if missing and missing[0].startswith("no NVIDIA driver"):
        hint = "this needs an NVIDIA GPU with its driver; or run on cpu"
    elif missing:
        hint = f"CUDA 13 and cuDNN 9 are missing: {_WITH_CUDA}"
    else:
        hint = "look at nvidia-smi and CUDA_VISIBLE_DEVICES, or run on cpu"
    return ProviderError(f"{request.asked} was asked for, but cannot run here: {reason}", hint=hint)


def explain_fallback(requests: Sequence[ProviderRequest], nodes: Sequence[str]) -> ProviderError:
    """Say in one line which nodes would have gone to the CPU.

    Args:
        requests: What was asked for, strictly.
        nodes: Their ops and names, as far as onnxruntime tells them.
    """
    shown = ", ".join(nodes[:NAMED])
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return ProviderError(
        f"{','.join(request.asked for request in requests)} cannot run every node, and --strict-providers keeps the "
        "rest from the CPU" + (f": {shown}{more}" if nodes else ""),
        hint="without --strict-providers the CPU runs them",
    )


def _missing_libraries() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    missing: list[str] = []
    for library, text in _CUDA_LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(text)
    return missing
