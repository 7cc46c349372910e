"""Run a network over the samples and measure its readers.

Readers with held weights are screened: the network runs once for a batch and hands out what they read, and families
of readers are worked on side by side. What the network must measure itself, products of two activations and weights
that stay in files, comes out of the same runs. Observers see the same batches; where they want more samples than the
readers, the network runs on for them alone.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from onnxpfp.calibrate.batch import SCARCE_BYTES, choose_batch
from onnxpfp.calibrate.observer import Batch, Observer
from onnxpfp.calibrate.passes import Pass, Run, parts_of, passes_of
from onnxpfp.calibrate.probe import Probe, build_probe
from onnxpfp.calibrate.sensitivity.device import DeviceOutputs, DeviceSensitivityObserver, Programs
from onnxpfp.calibrate.sensitivity.observer import SensitivityObserver
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import Kernel, SensitivitySettings
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.data.samples import Samples
from onnxpfp.errors import ModelError
from onnxpfp.linear.families import OpFamily, is_screened, op_families
from onnxpfp.linear.ops import FileWeight, LinearOp
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.progress import Count
from onnxpfp.runtime.binding import ReusedOutputs
from onnxpfp.runtime.device_memory import DeviceMemory, DeviceTensor, device_memory_of
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import Session, as_requests, open_session

__all__ = ["SensitivityMethod", "calibrate"]

_OWN = threading.local()
_LOG = logging.getLogger(__name__)

SensitivityMethod = Literal["screened", "plain"]
"""How sensitivities are found: both are exact. "plain" computes every share inside the graph."""

_CHUNK_BYTES_CPU = 4 << 20
_CHUNK_BYTES_DEVICE = 16 << 20
_IN_MEMORY = 1_500_000_000


def calibrate(
    model: ModelProto,
    readers: Sequence[LinearOp],
    samples: Samples,
    *,
    kernel: Kernel = "sum",
    batch_size: int | None = None,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    threads: int | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    progress: Count | None = None,
    method: SensitivityMethod = "screened",
    observers: Sequence[Observer] = (),
    scored: int | None = None,
    first_sample: int = 0,
) -> Statistics:
    """Measure the sensitivities and input means of all readers, and let observers see all samples on the way.

    Args:
        model: The network; it is not changed.
        readers: What to measure.
        samples: What to feed.
        kernel: "sum" (the bound holds) or "max" (the authors' code).
        batch_size: Most samples in one run; None chooses.
        providers: As in `open_session`.
        threads: Threads of the network's ops, and families of readers worked on at once; None takes all cores.
        workspace_bytes: Memory that intermediates may take, as far as one sample at a time can keep it.
        progress: Told how far it is.
        method: "screened", on the CPU or on CUDA, or "plain" as a reference. Other providers take "plain".
        observers: Who else looks at what linear ops read.
        scored: Readers are measured on so many samples, the first ones (`Samples.take`); None is all.
        first_sample: Number of the first sample, where these are a shard of all samples.

    Raises:
        CalibrationError: The data do not fit, or the network computes NaN on them.
        ModelError: onnxruntime cannot run the network.
        ProviderError: A provider that was asked for is missing.
    """
    if not readers and not observers:
        return Statistics()
    requests = as_requests(providers)
    on_cpu = all(request.name == CPU for request in requests)
    if any(isinstance(reader.weight, FileWeight) for reader in readers):
        workspace_bytes = min(workspace_bytes, SCARCE_BYTES)
    chunk = _CHUNK_BYTES_CPU if on_cpu else _CHUNK_BYTES_DEVICE
    plan = SensitivitySettings(kernel, chunk_bytes=chunk, workspace_bytes=workspace_bytes)
    place = None if on_cpu else device_memory_of(requests)
    screened = method == "screened" and (on_cpu or place is not None)
    families = op_families([reader for reader in readers if is_screened(reader)]) if screened else ()
    in_graph = [reader for reader in readers if not (screened and is_screened(reader))]
    passes = list(passes_of(families, in_graph, observers, workspace_bytes))
    shown = [*families, *op_families([observer.reader for observer in observers])]
    batch = choose_batch(shown, in_graph, samples, batch_size, plan)
    border = len(samples) if scored is None else len(samples.take(scored))
    where = place if screened else None
    run = partial(
        _measure,
        model,
        passes,
        samples,
        border=border,
        first=first_sample,
        requests=requests,
        place=where,
        threads=threads,
    )
    free = batch_size is None and samples.fixed_batch is None
    found = _with_fallback(run, replace(plan, batch=batch), observers, progress or _no_progress, free=free)
    return Statistics({reader.name: found[reader.name] for reader in readers})


def _with_fallback(
    run: Callable[..., Statistics],
    plan: SensitivitySettings,
    observers: Sequence[Observer],
    report: Count,
    *,
    free: bool,
) -> Statistics:
    """Run sample by sample where a batch that was free to choose fails.

    Many exports promise a free batch axis and have a Reshape that fixes it to one.
    """
    try:
        return run(plan=plan, report=report)
    except ModelError as error:
        if not free or plan.batch == 1:
            raise
        _LOG.warning("the model fails at batch %d and is run sample by sample: %s", plan.batch, error)
        for observer in observers:
            observer.forget()
        return run(plan=replace(plan, batch=1), report=report)


def _measure(
    model: ModelProto,
    passes: Sequence[Pass],
    samples: Samples,
    *,
    plan: SensitivitySettings,
    border: int,
    first: int,
    requests: tuple[ProviderRequest, ...],
    place: DeviceMemory | None,
    threads: int | None,
    report: Count,
) -> Statistics:
    beyond = len(samples) - border if passes[0].observers else 0
    total, done = border * len(passes) + beyond, 0
    statistics = Statistics()
    # Families are worked on side by side: none may take all cores for itself.
    with threadpool_limits(1), _pool(threads or _cores()) as pool:
        for each, runs in parts_of(passes, samples, plan.batch, border, first):
            probe = build_probe(model, each.readers, plan, each.shown)
            pairs = zip(each.families, probe.nonnegative, strict=False)
            programs = None if place is None else Programs(place, requests, threads)
            observers = [_observer(family, plan, clean, programs) for family, clean in pairs]
            with _session(probe, requests, threads) as session:
                forward = (
                    ReusedOutputs(session, probe.taps) if place is None else DeviceOutputs(session, probe.taps, place)
                )
                for one in runs:
                    values = forward.run(one.feed)
                    statistics = statistics.merge(probe.decode(values, one.samples))
                    _look(pool, observers, each.observers, [values[name] for name in probe.taps], one)
                    done += one.samples
                    report(done, total)
            measured = {reader.name: seen.statistics(reader) for seen in observers for reader in seen.family.readers}
            statistics = statistics.merge(Statistics(measured))
    return statistics


def _observer(
    family: OpFamily, plan: SensitivitySettings, nonnegative: bool, programs: Programs | None
) -> SensitivityObserver | DeviceSensitivityObserver:
    if programs is None:
        return SensitivityObserver(family, plan, nonnegative)
    return DeviceSensitivityObserver(family, plan, nonnegative, programs)


def _look(
    pool: ThreadPoolExecutor | None,
    families: Sequence[SensitivityObserver | DeviceSensitivityObserver],
    observers: Sequence[Observer],
    data: Sequence[Any],
    run: Run,
) -> None:
    """Let all observers see a batch, the largest first: so no core waits long for the last."""
    jobs = [
        (seen.family.work, partial(_see, seen, tensor, run.samples))
        for seen, tensor in zip(families, data, strict=False)
    ]
    shown = data[len(families) :]
    jobs += [
        (seen.work, partial(_show, seen, tensor, run.batch)) for seen, tensor in zip(observers, shown, strict=True)
    ]
    ordered = [job for _, job in sorted(jobs, key=lambda pair: -pair[0])]
    if pool is None:
        for job in ordered:
            job()
        return
    for each in [pool.submit(job) for job in ordered]:
        each.result()


def _show(observer: Observer, data: NDArray[Any] | DeviceTensor, batch: Batch) -> None:
    """Let an observer see a batch, which it wants on the host."""
    observer.see(cast("NDArray[Any]", data) if isinstance(data, np.ndarray) else data.numpy(), batch)


def _see(observer: SensitivityObserver | DeviceSensitivityObserver, data: Any, count: int) -> None:
    """Let a family see a batch where it is, or in the memory of this thread."""
    if isinstance(observer, DeviceSensitivityObserver):
        observer.see(data, count)
        return
    if not hasattr(_OWN, "scratch"):
        _OWN.scratch = ScratchArrays()
    observer.see(data, count, _OWN.scratch)


@contextmanager
def _pool(threads: int) -> Generator[ThreadPoolExecutor | None]:
    """Start threads where there are several: memory is handed out faster to the one that there is anyway."""
    if threads == 1:
        yield None
        return
    with ThreadPoolExecutor(threads) as pool:
        yield pool


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _session(
    probe: Probe,
    requests: Sequence[ProviderRequest],
    threads: int | None,
) -> Generator[Session]:
    """Open the probe in memory, or through a temporary file where protobuf cannot serialise it."""
    if _weight_bytes(probe.model) < _IN_MEMORY:
        yield open_session(probe.model, requests, threads=threads, spin=False)
        return
    with tempfile.TemporaryDirectory(prefix="onnxpfp-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "probe.onnx"
        cast("Any", onnx).save_model(probe.model, path, save_as_external_data=True, location="probe.data")
        yield open_session(path, requests, threads=threads, spin=False)


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _no_progress(done: int, total: int) -> None:
    """Report to nobody."""
