"""Sessions of onnxruntime that are silent, and honest about where they run."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.errors import ModelError, one_line
from onnxpfp.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    ProviderRequest,
    explain_missing,
    resolve_providers,
)

__all__ = ["ModelSource", "ProviderRequest", "Session", "open_session", "resolve_providers"]

_LOG = logging.getLogger(__name__)

ModelSource = ModelProto | bytes | str | os.PathLike[str]
"""A model in memory, its bytes, or its path; above 2 GB only a path works."""

_FATAL = 4
_WARNING = 2


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A model that is ready to run.

    Attributes:
        providers: Where it really runs, in priority order.
        inputs: Names of the inputs that must be fed.
        outputs: Names of the outputs.
    """

    providers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    _handle: Any

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once.

        Args:
            feeds: One array per input.
            outputs: Which outputs to compute; None is all.

        Raises:
            ModelError: onnxruntime refuses or fails, with its reason in one line.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            values = self._handle.run(names, dict(feeds))
        except Exception as error:
            raise ModelError(
                f"onnxruntime cannot run the model: {one_line(error)}",
                hint="check that the data have the shapes that the model expects",
            ) from error
        return {name: _as_array(value) for name, value in zip(names, values, strict=True)}


def open_session(
    model: ModelSource,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    *,
    threads: int | None = None,
    optimize: bool = True,
    layout: bool = True,
) -> Session:
    """Load a model into onnxruntime.

    Args:
        model: A path keeps external data beside the file right.
        providers: In priority order; the CPU always comes last, for ops that no other provider has.
        threads: Threads inside one op; None lets onnxruntime choose.
        optimize: Whether onnxruntime may fuse and fold.
        layout: Whether it may change memory layouts, too: faster to run, slower to load.

    Raises:
        ProviderError: A provider other than the CPU was asked for and does not run here.
        ModelError: onnxruntime cannot load the model.
    """
    ort: Any = importlib.import_module("onnxruntime")
    requests = as_requests(providers)
    built = frozenset(cast("list[str]", ort.get_available_providers()))
    for request in requests:
        if request.name not in built:
            raise explain_missing(request, in_build=False)
    options = _options(ort, threads=threads, optimize=optimize, layout=layout)
    handle = _create(ort, _payload(model), options, requests)
    running = tuple(cast("list[str]", handle.get_providers()))
    for request in requests:
        if request.name not in running:
            raise explain_missing(request, in_build=True)
    _LOG.debug("session on %s", ", ".join(running))
    return Session(
        running,
        tuple(item.name for item in handle.get_inputs()),
        tuple(item.name for item in handle.get_outputs()),
        handle,
    )


def as_requests(
    providers: str | Sequence[str] | Sequence[ProviderRequest],
) -> tuple[ProviderRequest, ...]:
    """Resolve names; requests that are resolved already stay as they are."""
    if isinstance(providers, str):
        return resolve_providers(providers)
    ready = [item for item in providers if isinstance(item, ProviderRequest)]
    return tuple(ready) or resolve_providers([item for item in providers if isinstance(item, str)])


def _payload(model: ModelSource) -> str | bytes:
    if isinstance(model, bytes):
        return model
    if isinstance(model, ModelProto):
        try:
            return model.SerializeToString()
        except Exception as error:
            raise ModelError(
                "the model is larger than 2 GB and cannot be handed over in memory",
                hint="save it with external data and give its path",
            ) from error
    if not Path(model).is_file():
        raise ModelError(f"{os.fspath(model)} does not exist", hint="check the path")
    return os.fspath(model)


def _options(ort: Any, *, threads: int | None, optimize: bool, layout: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    levels = ort.GraphOptimizationLevel
    optimized = levels.ORT_ENABLE_ALL if layout else levels.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = optimized if optimize else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


def _create(ort: Any, payload: str | bytes, options: Any, requests: tuple[ProviderRequest, ...]) -> Any:
    chain: list[tuple[str, dict[str, str]]] = [(item.name, dict(item.options)) for item in requests]
    if CPU not in {name for name, _ in chain}:
        chain.append((CPU, {}))
    accelerated = [item for item in requests if item.name != CPU]
    with _silence(ort, accelerated):
        try:
            # Without enable_fallback=0 a provider that fails prints a banner on stdout and is dropped.
            return ort.InferenceSession(payload, options, providers=chain, enable_fallback=0)
        except Exception as error:
            if accelerated and not _loads_on_cpu(ort, payload, options):
                accelerated = []
            if accelerated:
                raise explain_missing(accelerated[0], in_build=True) from error
            raise ModelError(f"onnxruntime cannot load the model: {one_line(error)}") from error


def _loads_on_cpu(ort: Any, payload: str | bytes, options: Any) -> bool:
    """Tell a broken model from a broken provider."""
    try:
        ort.InferenceSession(payload, options, providers=[CPU])
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _silence(ort: Any, accelerated: Sequence[ProviderRequest]) -> Generator[None]:
    """Keep the default logger and the library loader of onnxruntime quiet while a session is made."""
    ort.set_default_logger_severity(_FATAL)
    try:
        wants_cuda = any(item.name in (CUDA, TENSORRT) for item in accelerated)
        if wants_cuda and hasattr(ort, "preload_dlls"):
            sink = io.StringIO()
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                ort.preload_dlls()
            _LOG.debug("preload_dlls: %s", sink.getvalue().strip())
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def _as_array(value: object) -> NDArray[Any]:
    """Return a tensor as it is, a sequence or map as one object."""
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)
    box = np.empty((), dtype=object)
    box[()] = value
    return box
