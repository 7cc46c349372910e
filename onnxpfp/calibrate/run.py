"""Run the probes over the samples and merge what comes out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import ModelProto

from onnxpfp.calibrate.data import Samples
from onnxpfp.calibrate.probe import Probe, build_probe, shard_readers
from onnxpfp.calibrate.providers import CPU, ProviderRequest, resolve_providers
from onnxpfp.calibrate.reader import Reader
from onnxpfp.calibrate.runtime import Session, open_session
from onnxpfp.calibrate.sensitivity import Guard, Kernel, Plan
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.errors import CalibrationError, ModelError

__all__ = ["WORKSPACE_BYTES", "Progress", "calibrate", "choose_batch"]

_LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

WORKSPACE_BYTES = 64 << 20
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
    batch = choose_batch(readers, samples, batch_size, workspace_bytes)
    plan = Plan(kernel, guard, batch, _chunk_bytes(providers), workspace_bytes=workspace_bytes)
    report = progress or _no_progress
    try:
        return _measure(model, readers, samples, plan, providers, threads, report)
    except ModelError as error:
        if batch_size is not None or samples.fixed_batch is not None or batch == 1:
            raise
        # Many exports promise a free batch axis and have a Reshape that fixes it to one.
        _LOG.warning("the model fails at batch %d and is run sample by sample: %s", batch, error)
        single = Plan(kernel, guard, 1, plan.chunk_bytes, workspace_bytes=workspace_bytes)
        return _measure(model, readers, samples, single, providers, threads, report)


def choose_batch(readers: Sequence[Reader], samples: Samples, asked: int | None, workspace_bytes: int) -> int:
    """Return the batch size: what the model fixes, what was asked, or as much as the workspace holds up to 16."""
    if samples.fixed_batch is not None:
        return samples.fixed_batch
    if asked is not None:
        if asked < 1:
            raise CalibrationError(f"a batch of {asked} samples is not possible")
        return asked
    largest = max(_sums_bytes(reader) for reader in readers)
    return max(1, min(_BATCH, len(samples), workspace_bytes // max(1, 2 * largest)))


def _sums_bytes(reader: Reader) -> int:
    """Bytes of z of one sample: two signs of every output."""
    size = 2 * 4
    for dim in reader.output_shape:
        size *= dim
    return size


def _chunk_bytes(providers: str | Sequence[str] | Sequence[ProviderRequest]) -> int:
    requests = (
        resolve_providers(providers)
        if isinstance(providers, str)
        else [item for item in providers if isinstance(item, ProviderRequest)]
        or resolve_providers([item for item in providers if isinstance(item, str)])
    )
    on_cpu = all(request.name == CPU for request in requests)
    return _CHUNK_BYTES_CPU if on_cpu else _CHUNK_BYTES_DEVICE


def _measure(
    model: ModelProto,
    readers: Sequence[Reader],
    samples: Samples,
    plan: Plan,
    providers: str | Sequence[str] | Sequence[ProviderRequest],
    threads: int | None,
    report: Progress,
) -> Statistics:
    shards = list(shard_readers(readers))
    total = len(samples) * len(shards)
    done = 0
    statistics = Statistics()
    for shard in shards:
        probe = build_probe(model, shard, plan)
        with _session(probe, providers, threads) as session:
            for feeds, count in samples.runs(plan.batch):
                values = session.run(feeds)
                statistics = statistics.merge(probe.decode(values, count))
                done += count
                report(done, total)
    return statistics


@contextmanager
def _session(
    probe: Probe,
    providers: str | Sequence[str] | Sequence[ProviderRequest],
    threads: int | None,
) -> Iterator[Session]:
    """Open the probe in memory, or through a temporary file where protobuf cannot serialise it."""
    if _weight_bytes(probe.model) < _IN_MEMORY:
        yield open_session(probe.model, providers, threads=threads)
        return
    with tempfile.TemporaryDirectory(prefix="onnxpfp-") as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save_model(probe.model, path, save_as_external_data=True, location="probe.data")
        yield open_session(path, providers, threads=threads)


def _weight_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _no_progress(done: int, total: int) -> None:
    """Report to nobody."""
