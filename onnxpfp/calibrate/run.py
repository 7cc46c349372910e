"""Run the probes over the samples and merge what comes out."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import onnx
from onnx import ModelProto

from onnxpfp.calibrate.data import Samples
from onnxpfp.calibrate.plan import Guard, Kernel, Plan
from onnxpfp.calibrate.probe import Probe, build_probe, shard_readers
from onnxpfp.calibrate.reader import Distant, Reader
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import Session, as_requests, open_session

__all__ = ["WORKSPACE_BYTES", "Progress", "calibrate", "choose_batch"]

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

WORKSPACE_BYTES = 64 << 20
_SCARCE_BYTES = 16 << 20
"""The same where weights stay in files, for then memory is scarce."""
_BATCH = 16
_CHUNK_BYTES_CPU = 4 << 20
_CHUNK_BYTES_DEVICE = 16 << 20
_IN_MEMORY = 1_500_000_000


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
        threads: Threads inside one op; None lets onnxruntime choose.
        workspace_bytes: Limit of one intermediate of the probe.
        progress: Told how far it is.

    Raises:
        CalibrationError: The data do not fit, or the network computes NaN on them.
        ModelError: onnxruntime cannot run the network.
        ProviderError: A provider that was asked for is missing.
    """
    if not readers:
        return Statistics()
    requests = as_requests(providers)
    if any(isinstance(reader.weight, Distant) for reader in readers):
        workspace_bytes = min(workspace_bytes, _SCARCE_BYTES)
    plan = Plan(kernel, guard, 1, _chunk_bytes(requests), workspace_bytes=workspace_bytes)
    batch = choose_batch(readers, samples, batch_size, plan)
    run = partial(_measure, model, readers, samples, requests=requests, threads=threads)
    free = batch_size is None and samples.fixed_batch is None
    return _with_fallback(run, replace(plan, batch=batch), progress or _no_progress, free=free)


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


def choose_batch(readers: Sequence[Reader], samples: Samples, asked: int | None, plan: Plan) -> int:
    """Return the batch size: what the model fixes, what was asked, or up to 16 as memory and cache allow.

    The largest sums z and their inverse stay within the workspace; three quarters of the readers can work on a
    channel within two chunks.
    """
    if samples.fixed_batch is not None:
        return samples.fixed_batch
    if asked is not None:
        if asked < 1:
            raise CalibrationError(f"a batch of {asked} samples is not possible", hint="give 1 or more")
        return asked
    sums = [2 * 4 * math.prod(reader.output_shape) for reader in readers]
    blocks = [
        size // reader.group * (reader.kernel_size if plan.kernel == "max" else 1)
        for size, reader in zip(sums, readers, strict=True)
    ]
    in_memory = plan.workspace_bytes // max(1, 2 * max(sums))
    if plan.workspace_bytes <= _SCARCE_BYTES:
        # In few chunks: a node of the probe takes memory, too.
        chunks = [each * len(reader.channels) // plan.max_chunks for each, reader in zip(blocks, readers, strict=True)]
        in_memory = min(in_memory, plan.workspace_bytes // max(1, max(chunks)))
    in_cache = 2 * plan.chunk_bytes // max(1, sorted(blocks)[len(blocks) * 3 // 4])
    return max(1, min(_BATCH, len(samples), in_memory, in_cache))


def _chunk_bytes(requests: Sequence[ProviderRequest]) -> int:
    on_cpu = all(request.name == CPU for request in requests)
    return _CHUNK_BYTES_CPU if on_cpu else _CHUNK_BYTES_DEVICE


def _measure(
    model: ModelProto,
    readers: Sequence[Reader],
    samples: Samples,
    *,
    plan: Plan,
    requests: Sequence[ProviderRequest],
    threads: int | None,
    report: Progress,
) -> Statistics:
    shards = list(shard_readers(readers))
    total = len(samples) * len(shards)
    done = 0
    statistics = Statistics()
    for shard in shards:
        probe = build_probe(model, shard, plan)
        with _session(probe, requests, threads) as session:
            for feeds, count in samples.runs(plan.batch):
                values = session.run(feeds)
                statistics = statistics.merge(probe.decode(values, count))
                done += count
                report(done, total)
    return statistics


@contextmanager
def _session(
    probe: Probe,
    requests: Sequence[ProviderRequest],
    threads: int | None,
) -> Generator[Session]:
    """Open the probe in memory, or through a temporary file where protobuf cannot serialise it."""
    if _weight_bytes(probe.model) < _IN_MEMORY:
        yield open_session(probe.model, requests, threads=threads, layout=False)
        return
    with tempfile.TemporaryDirectory(prefix="onnxpfp-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "probe.onnx"
        cast("Any", onnx).save_model(probe.model, path, save_as_external_data=True, location="probe.data")
        yield open_session(path, requests, threads=threads, layout=False)


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _no_progress(done: int, total: int) -> None:
    """Report to nobody."""
