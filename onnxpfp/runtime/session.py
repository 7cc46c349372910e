"""Sessions of onnxruntime that are silent, and honest about where they run.

Weights that lie in files are fed as mapped arrays at every run: onnxruntime computes on the pages of the file and has
no copy of them, not even a reordered one. Such a model runs its nodes in the order in which they stand, as they are.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxpfp.errors import ModelError, one_line
from onnxpfp.runtime.arena import SHARED, share_arena
from onnxpfp.runtime.device_memory import DeviceMemory, DeviceTensor
from onnxpfp.runtime.draw_keys import DECIDING, KEYS, draw_keys
from onnxpfp.runtime.external_data import externalise, numbers
from onnxpfp.runtime.handle import create_handle, custom_ops, quiet_logger, save_memory, session_options
from onnxpfp.runtime.heap import trim_malloc
from onnxpfp.runtime.latency import RunTime
from onnxpfp.runtime.payload import SessionSource, at_hand
from onnxpfp.runtime.providers import ProviderRequest, explain_missing, resolve_providers
from onnxpfp.time_limit import stoppable

__all__ = ["ProviderRequest", "Session", "SessionSource", "custom_ops", "open_session", "resolve_providers"]

NO_SPINNING = "session.intra_op.allow_spinning", "0"
STOP_SPINNING = "session.force_spinning_stop", "1"
"""Entries of a session's configuration."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A model that is ready to run.

    Attributes:
        providers: Where it really runs, in priority order.
        inputs: Names of the inputs that must be fed, but for the keys of random draws, which follow from the others.
        outputs: Names of the outputs.
    """

    providers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    _handle: Any
    _weights: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def keyed(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return feeds with the keys of random draws, where the model takes keys and the feeds have none."""
        if KEYS not in self.inputs or KEYS in feeds:
            return feeds
        return {**feeds, KEYS: draw_keys(feeds, self._handle.get_modelmeta().custom_metadata_map[DECIDING])}

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run once.

        Args:
            feeds: One array per input.
            outputs: Which outputs to compute; None is all.

        Raises:
            ModelError: onnxruntime refuses or fails, with its reason in one line.
        """
        names = list(self.outputs if outputs is None else outputs)
        with _running() as run_options:
            values = self._handle.run(names, {**self._weights, **self.keyed(feeds)}, run_options)
        return {name: _as_array(value) for name, value in zip(names, values, strict=True)}

    def timed(self, feeds: Mapping[str, NDArray[Any]]) -> RunTime:
        """Run once and return what onnxruntime took for all outputs, without what is done around it.

        Args:
            feeds: One array per input.

        Raises:
            ModelError: As in `run`.
        """
        with _running() as run_options:
            return self._timed(feeds, run_options)

    def timed_within(self, feeds: Mapping[str, NDArray[Any]], limit: float) -> RunTime | None:
        """Run once, as `timed`, but stop after so many seconds; returns None then.

        Raises:
            ModelError: As in `run`.
        """
        over = threading.Event()
        try:
            with _running() as run_options, _stopping(limit, over, partial(setattr, run_options, "terminate", True)):
                return self._timed(feeds, run_options)
        except ModelError:
            if over.is_set():
                return None
            raise

    def _timed(self, feeds: Mapping[str, NDArray[Any]], run_options: Any) -> RunTime:
        names, given = list(self.outputs), {**self._weights, **self.keyed(feeds)}
        start, cores = time.perf_counter(), time.process_time()
        self._handle.run(names, given, run_options)
        cores = time.process_time() - cores
        return RunTime(time.perf_counter() - start, cores)

    def end_profile(self) -> Path:
        """Write the profile of all runs of a session that was opened with `profile`; returns its file."""
        return Path(self._handle.end_profiling())

    def run_into(
        self, feeds: Mapping[str, NDArray[Any]], buffers: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Run once on the CPU and write some outputs where they shall lie.

        Args:
            feeds: One array per input.
            buffers: Arrays of the shapes and types that these outputs have.

        Raises:
            ModelError: As in `run`.
        """
        others = [name for name in self.outputs if name not in buffers]
        with _running() as run_options:
            # What is the default; unset, its lookup raises and catches an error, which takes longer than a small run.
            run_options.add_run_config_entry("gpu_graph_id", "0")
            binding = self._handle.io_binding()
            _bind_inputs(binding, {**self._weights, **self.keyed(feeds)})
            for name, buffer in buffers.items():
                binding.bind_output(name, "cpu", 0, buffer.dtype.type, list(buffer.shape), buffer.ctypes.data)
            for name in others:
                binding.bind_output(name, "cpu")
            self._handle.run_with_iobinding(binding, run_options)
            # They come in the order in which they were bound.
            fresh: list[DeviceTensor] = binding.get_outputs()[len(buffers) :] if others else []
        return {**buffers, **{name: _as_array(value.numpy()) for name, value in zip(others, fresh, strict=True)}}

    def run_at(
        self, feeds: Mapping[str, DeviceTensor | NDArray[Any]], memory: DeviceMemory, home: Collection[str] = ()
    ) -> dict[str, DeviceTensor]:
        """Run once and leave the outputs where the provider computes.

        Args:
            feeds: One tensor per input: an array, or what an earlier run left there.
            memory: Where that is.
            home: Outputs that come to the CPU all the same.

        Raises:
            ModelError: As in `run`.
        """
        with _running() as run_options:
            binding = self._handle.io_binding()
            _bind_inputs(binding, {**self._weights, **self.keyed(feeds)})
            for name in self.outputs:
                if name in home:
                    binding.bind_output(name, "cpu")
                else:
                    binding.bind_output(name, memory.kind, memory.number)
            binding.synchronize_inputs()
            self._handle.run_with_iobinding(binding, run_options)
            binding.synchronize_outputs()
            return dict(zip(self.outputs, binding.get_outputs(), strict=True))


def open_session(
    model: SessionSource,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    *,
    threads: int | None = None,
    optimize: bool = True,
    layout: bool = True,
    resting: bool = False,
    shared: bool = False,
    arena: bool = True,
    profile: Path | None = None,
) -> Session:
    """Load a model into onnxruntime.

    Args:
        model: A path keeps external data beside the file right. A large one in memory is loaded from a temporary file,
            and one that was made for this is gone by then: else its weights were in memory once more, twice with bytes
            of it, when onnxruntime takes most.
        providers: In priority order; the CPU comes last, for ops that no other provider has, unless they are strict.
        threads: Threads inside one op; None lets onnxruntime choose.
        optimize: Whether onnxruntime may fuse and fold.
        layout: Whether it may change memory layouts, too: faster to run, slower to load.
        resting: Whether its threads wait for work in a loop within a run, as they do for a user, but not between runs:
            for runs that are timed in turns. Else they never do: that takes the cores from what Python does between,
            and on a busy machine from the threads that they wait for.
        shared: Whether its intermediates lie in the same memory as those of other such sessions: where many are open,
            each would keep some.
        arena: Whether the memory of its intermediates is kept between runs, on the CPU. Else they come from the C
            library one by one, and go back to it after their last use, and each output lies by itself. That is for
            large batches: it takes a hundredth of their time, and many small runs would take more.
        profile: Folder of the profile (`Session.end_profile`); None makes none.

    Raises:
        ProviderError: A provider other than the CPU was asked for and does not run here, or not every node, where it
            is strict; nodes inside of If, Loop and Scan go where they can.
        ModelError: onnxruntime cannot load the model.
    """
    ort: Any = importlib.import_module("onnxruntime")
    requests = as_requests(providers)
    built = frozenset(cast("list[str]", ort.get_available_providers()))
    for request in requests:
        if request.name not in built:
            raise explain_missing(request, in_build=False)
    apart: Mapping[str, TensorProto] = {}
    model = model() if callable(model) else model
    if isinstance(model, ModelProto):
        if any(info.name == KEYS for info in model.graph.input):
            # Draws are made by nodes that need not run where the user's nodes do.
            requests = tuple(replace(request, strict=False) for request in requests)
        model, apart = externalise(model)
    options = session_options(ort, threads=threads, optimize=optimize and not apart, layout=layout)
    if shared:
        share_arena()
        options.add_session_config_entry(*SHARED)
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry(*(STOP_SPINNING if resting else NO_SPINNING))
    if not resting:
        # From the second run of a shape on, all intermediates would lie in one block of their own, beside what the
        # first run took: fresh memory, which takes longer to get than a search for each of them.
        options.enable_mem_pattern = False
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "profile")
    if any(request.strict for request in requests):
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if apart:
        save_memory(ort, options)
    # Weights may be folded while a session is made, and that may take as long as a run.
    with stoppable(partial(options.set_load_cancellation_flag, True)), at_hand(model) as (payload, large):
        del model
        handle = create_handle(ort, payload, options, requests)
    if large:
        # onnxruntime has copied it several times.
        trim_malloc()
    running = tuple(cast("list[str]", handle.get_providers()))
    for request in requests:
        if request.name not in running:
            raise explain_missing(request, in_build=True)
    _LOG.debug("session on %s", ", ".join(running))
    return Session(
        running,
        tuple(item.name for item in handle.get_inputs() if item.name not in apart),
        tuple(item.name for item in handle.get_outputs()),
        handle,
        {name: _fed(ort, tensor) for name, tensor in apart.items()},
    )


def as_requests(
    providers: str | Sequence[str] | Sequence[ProviderRequest],
) -> tuple[ProviderRequest, ...]:
    """Resolve names; requests that are resolved already stay as they are."""
    if isinstance(providers, str):
        return resolve_providers(providers)
    ready = [item for item in providers if isinstance(item, ProviderRequest)]
    return tuple(ready) or resolve_providers([item for item in providers if isinstance(item, str)])


def _fed(ort: Any, tensor: TensorProto) -> Any:
    """Map a weight as onnxruntime takes it."""
    array = numbers(tensor)
    if tensor.data_type == TensorProto.BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), tensor.data_type)
    return array


@contextlib.contextmanager
def _running() -> Generator[Any]:
    """Yield the options of a run that stops when its time is over, and say why it fails."""
    ort: Any = importlib.import_module("onnxruntime")
    run_options = ort.RunOptions()
    # Of what a kernel lacks memory for, the allocator would write on stderr.
    with stoppable(partial(setattr, run_options, "terminate", True)), _explained(), quiet_logger(ort):
        yield run_options


@contextlib.contextmanager
def _stopping(limit: float, over: threading.Event, stop: Callable[[], None]) -> Generator[None]:
    """Stop what runs inside after so many seconds, and set `over` then."""

    def end() -> None:
        over.set()
        stop()

    timer = threading.Timer(max(limit, 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Say in one line why onnxruntime refuses to run."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot run the model: {one_line(error)}",
            hint="check that the data have the shapes that the model expects",
        ) from error


def _bind_inputs(binding: Any, feeds: Mapping[str, Any]) -> None:
    """Bind arrays and what is a tensor of onnxruntime already."""
    for name, value in feeds.items():
        if isinstance(value, np.ndarray):
            # Not ascontiguousarray, which gives a number without axes one.
            binding.bind_cpu_input(name, np.asarray(cast("NDArray[Any]", value), order="C"))
        else:
            binding.bind_ortvalue_input(name, value)


def _as_array(value: object) -> NDArray[Any]:
    """Return a tensor as it is, a sequence or map as one object."""
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)
    box = np.empty((), dtype=object)
    box[()] = value
    return box
