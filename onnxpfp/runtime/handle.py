"""The session objects of onnxruntime itself: made in silence, with an error that says what does not run where."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import logging
import os
import sys
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from typing import Any, cast

from onnxpfp.errors import ModelError, OptionError, ProviderError, one_line
from onnxpfp.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    ProviderRequest,
    explain_fallback,
    explain_missing,
)

__all__ = ["create_handle", "custom_ops", "quiet_logger", "save_memory", "session_options"]

_LOG = logging.getLogger(__name__)
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""
_MAPPED_FROM = 128 << 10
"""Bytes, glibc's own default; setting it keeps it from growing."""
_FATAL = 4
_WARNING = 2
_FALLBACK = "fallback to CPU EP has been explicitly disabled"
"""Text with which onnxruntime refuses a node that strict providers cannot run."""
_LIBRARIES: ContextVar[tuple[str, ...]] = ContextVar("libraries", default=())
"""Libraries of custom ops for the sessions that are opened within `custom_ops`."""


@contextlib.contextmanager
def custom_ops(libraries: Sequence[str]) -> Generator[None]:
    """Register the ops of libraries in every session that is opened inside.

    Args:
        libraries: Paths of shared libraries with the entry point `RegisterCustomOps`.

    Raises:
        OptionError: onnxruntime cannot register one.
    """
    token = _LIBRARIES.set(tuple(map(os.path.abspath, libraries)))
    try:
        if libraries:
            session_options(importlib.import_module("onnxruntime"), threads=None, optimize=True, layout=True)
        yield
    finally:
        _LIBRARIES.reset(token)


def session_options(ort: Any, *, threads: int | None, optimize: bool, layout: bool) -> Any:
    """Return the options of a silent session, with the custom ops that are registered.

    Args:
        ort: The module of onnxruntime.
        threads: Threads inside one op; None lets onnxruntime choose.
        optimize: Whether it may fuse and fold.
        layout: Whether it may change memory layouts, too.

    Raises:
        OptionError: It cannot register a library of custom ops.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    levels = ort.GraphOptimizationLevel
    optimized = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = optimized if optimize else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    for library in _LIBRARIES.get():
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise OptionError(
                f"--custom-ops {library}: onnxruntime cannot register it: {one_line(error)}",
                hint="give a shared library with the function RegisterCustomOps, built for this version of onnxruntime",
            ) from error
    return options


def save_memory(ort: Any, options: Any) -> None:
    """Free every intermediate after its last use, and make none before its turn."""
    if sys.platform == "linux":
        # glibc serves ever larger blocks from its heap once it has seen such freed, and gives that heap back seldom.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _MAPPED_FROM)
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    # The default order is depth first from the outputs: what depends on weights alone could come first.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED


def create_handle(ort: Any, payload: str | bytes, options: Any, requests: tuple[ProviderRequest, ...]) -> Any:
    """Make the session object of onnxruntime.

    Args:
        ort: The module of onnxruntime.
        payload: The bytes of a model, or its path.
        options: As `session_options` returns them.
        requests: Where to run, in priority order; the CPU comes last, unless it is named or a request is strict.

    Raises:
        ProviderError: A provider does not run here, or not every node, where it is strict.
        ModelError: onnxruntime cannot load the model.
    """
    chain: list[tuple[str, dict[str, str]]] = [(item.name, dict(item.options)) for item in requests]
    # onnxruntime calls it a contradiction where the CPU is named and may run nothing.
    if not any(item.name == CPU or item.strict for item in requests):
        chain.append((CPU, {}))
    accelerated = [item for item in requests if item.name != CPU]
    with _silence(ort, accelerated):
        try:
            # Without enable_fallback=0 a provider that fails prints a banner on stdout and is dropped.
            handle = ort.InferenceSession(payload, options, providers=chain, enable_fallback=0)
        except Exception as error:
            if _FALLBACK in str(error):
                raise _why_on_cpu(ort, payload, chain, requests) from error
            if accelerated and not _loads_on_cpu(ort, payload):
                accelerated = []
            if accelerated:
                raise explain_missing(accelerated[0], in_build=True) from error
            # Of a file of ours nobody knows the name.
            reason = one_line(error).replace(f"Load model from {payload} failed:", "", 1)
            raise ModelError(f"onnxruntime cannot load the model: {reason}") from error
    # It would hold the model as long as it lives, for a fallback to other providers.
    handle._model_bytes = None
    return handle


def _why_on_cpu(
    ort: Any, payload: str | bytes, chain: list[tuple[str, dict[str, str]]], requests: tuple[ProviderRequest, ...]
) -> ProviderError:
    """Find out what goes to the CPU where it may: all nodes of a provider that does not run, or single ones."""
    options = session_options(ort, threads=None, optimize=True, layout=True)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    handle = ort.InferenceSession(payload, options, providers=[*chain, (CPU, {})], enable_fallback=0)
    running = cast("list[str]", handle.get_providers())
    for request in requests:
        if request.name not in running:
            return explain_missing(request, in_build=True)
    # Older versions of onnxruntime do not tell.
    assigned = getattr(handle, "get_provider_graph_assignment_info", list[Any])()
    nodes = [node for part in assigned if part.ep_name == CPU for node in part.get_nodes()]
    return explain_fallback(requests, [f"{node.op_type} '{node.name}'" for node in nodes])


def _loads_on_cpu(ort: Any, payload: str | bytes) -> bool:
    """Tell a broken model from a broken provider."""
    try:
        ort.InferenceSession(payload, session_options(ort, threads=None, optimize=True, layout=True), providers=[CPU])
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _silence(ort: Any, accelerated: Sequence[ProviderRequest]) -> Generator[None]:
    """Keep the default logger and the library loader of onnxruntime quiet while a session is made."""
    with quiet_logger(ort):
        wants_cuda = any(item.name in (CUDA, TENSORRT) for item in accelerated)
        if wants_cuda and hasattr(ort, "preload_dlls"):
            sink = io.StringIO()
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                ort.preload_dlls()
            _LOG.debug("preload_dlls: %s", sink.getvalue().strip())
        yield


@contextlib.contextmanager
def quiet_logger(ort: Any) -> Generator[None]:
    """Keep the default logger of onnxruntime from stderr."""
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)
