"""Run a network over the samples and measure its readers.

Readers with held weights are screened: the network runs once for a batch and hands out what they read, and families
of readers are worked on side by side. What the network must measure itself, products of two activations and weights
that stay in files, comes out of the same runs.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, cast

import onnx
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from onnxpfp.calibrate.batch import SCARCE_BYTES, choose_batch
from onnxpfp.calibrate.data import Samples
from onnxpfp.calibrate.family import Family, families_of, is_screened, shard_families
from onnxpfp.calibrate.observe import Observer
from onnxpfp.calibrate.plan import Guard, Kernel, Plan
from onnxpfp.calibrate.probe import Probe, build_probe, shard_readers
from onnxpfp.calibrate.reader import Distant, Reader
from onnxpfp.calibrate.scratch import Scratch
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.errors import ModelError
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import Reusing, Session, as_requests, open_session

__all__ = ["WORKSPACE_BYTES", "Method", "Progress", "calibrate"]

_OWN = threading.local()
_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

Method = Literal["screened", "plain"]
"""How sensitivities are found: both are exact. "plain" computes every share inside the graph."""

WORKSPACE_BYTES = 512 << 20
_CHUNK_BYTES_CPU = 4 << 20
_CHUNK_BYTES_DEVICE = 16 << 20
_IN_MEMORY = 1_500_000_000


@dataclass(frozen=True, slots=True)
class _Pass:
    """What is measured in one pass over the samples.

    Attributes:
        families: What is screened.
        readers: What the graph measures.
    """

    families: tuple[Family, ...]
    readers: tuple[Reader, ...]


def calibrate(
    model: ModelProto,
    readers: Sequence[Reader],
    samples: Samples,
    *,
    kernel: Kernel = "sum",
    guard: Guard = "relative",
    batch_size: int | None = None,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    threads: int | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    progress: Progress | None = None,
    method: Method = "screened",
) -> Statistics:
    """Measure the sensitivities and input means of all readers.

    Args:
        model: The network; it is not changed.
        readers: What to measure.
        samples: What to feed.
        kernel: "sum" (the bound holds) or "max" (the authors' code).
        guard: "relative" to the largest sum of a sample, or the authors' "absolute" 1.19e-7.
        batch_size: Samples in one run; None chooses.
        providers: As in `open_session`.
        threads: Threads of the network's ops, and families of readers worked on at once; None takes all cores.
        workspace_bytes: Memory that intermediates may take, as far as one sample at a time can keep it.
        progress: Told how far it is.
        method: "screened", or "plain" as a reference. A provider other than the CPU takes "plain".

    Raises:
        CalibrationError: The data do not fit, or the network computes NaN on them.
        ModelError: onnxruntime cannot run the network.
        ProviderError: A provider that was asked for is missing.
    """
    if not readers:
        return Statistics()
    requests = as_requests(providers)
    on_cpu = all(request.name == CPU for request in requests)
    if any(isinstance(reader.weight, Distant) for reader in readers):
        workspace_bytes = min(workspace_bytes, SCARCE_BYTES)
    chunk = _CHUNK_BYTES_CPU if on_cpu else _CHUNK_BYTES_DEVICE
    plan = Plan(kernel, guard, 1, chunk, workspace_bytes=workspace_bytes)
    screened = method == "screened" and on_cpu
    families = families_of([reader for reader in readers if is_screened(reader)]) if screened else ()
    in_graph = [reader for reader in readers if not (screened and is_screened(reader))]
    batch = choose_batch(families, in_graph, samples, batch_size, plan)
    passes = list(_passes(families, in_graph, workspace_bytes))
    run = partial(_measure, model, passes, samples, requests=requests, threads=threads)
    free = batch_size is None and samples.fixed_batch is None
    found = _with_fallback(run, replace(plan, batch=batch), progress or _no_progress, free=free)
    return Statistics({reader.name: found[reader.name] for reader in readers})


def _passes(families: Sequence[Family], readers: Sequence[Reader], workspace: int) -> Iterator[_Pass]:
    """Cut what is to be measured into passes: weights are held in the layouts of the measurement, too."""
    for some, others in zip_longest(shard_families(families, workspace), shard_readers(readers), fillvalue=()):
        yield _Pass(cast("tuple[Family, ...]", some), cast("tuple[Reader, ...]", others))


def _with_fallback(run: Callable[..., Statistics], plan: Plan, report: Progress, *, free: bool) -> Statistics:
    """Run sample by sample where a batch that was free to choose fails.

    Many exports promise a free batch axis and have a Reshape that fixes it to one.
    """
    try:
        return run(plan=plan, report=report)
    except ModelError as error:
        if not free or plan.batch == 1:
            raise
        _LOG.warning("the model fails at batch %d and is run sample by sample: %s", plan.batch, error)
        return run(plan=replace(plan, batch=1), report=report)


def _measure(
    model: ModelProto,
    passes: Sequence[_Pass],
    samples: Samples,
    *,
    plan: Plan,
    requests: Sequence[ProviderRequest],
    threads: int | None,
    report: Progress,
) -> Statistics:
    total = len(samples) * len(passes)
    done = 0
    statistics = Statistics()
    # Families are worked on side by side: none may take all cores for itself.
    with threadpool_limits(1), ThreadPoolExecutor(threads or _cores()) as pool:
        for each in passes:
            probe = build_probe(model, each.readers, plan, each.families)
            watching = [Observer(f, plan, clean) for f, clean in zip(each.families, probe.nonnegative, strict=True)]
            with _session(probe, requests, threads) as session:
                forward = Reusing(session, probe.taps)
                for feeds, count in samples.runs(plan.batch):
                    values = forward.run(feeds)
                    statistics = statistics.merge(probe.decode(values, count))
                    _watch(pool, watching, [values[name] for name in probe.taps], count)
                    done += count
                    report(done, total)
            measured = {reader.name: w.statistics(reader) for w in watching for reader in w.family.readers}
            statistics = statistics.merge(Statistics(measured))
    return statistics


def _watch(pool: ThreadPoolExecutor, watching: Sequence[Observer], data: Sequence[Any], count: int) -> None:
    """Let all families see a batch, the largest first: so no core waits long for the last."""
    order = sorted(range(len(watching)), key=lambda number: -watching[number].family.work)
    for each in [pool.submit(_see, watching[number], data[number], count) for number in order]:
        each.result()


def _see(watching: Observer, data: Any, count: int) -> None:
    """Let a family see a batch, in the memory of this thread."""
    if not hasattr(_OWN, "scratch"):
        _OWN.scratch = Scratch()
    watching.see(data, count, _OWN.scratch)


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
