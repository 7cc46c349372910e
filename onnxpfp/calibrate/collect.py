"""Measure the sensitivities of a network's linear ops.

Two paths give the same sensitivities up to rounding, from the same runs of the network over batches of samples:

    screened   Linear ops with weights in memory. The network outputs the tensors that they read; ops that read one
               tensor through one window are a family, and families are measured outside of the network, in parallel.
    in graph   Products of two activations, and ops whose weights stay in files; all ops with method="plain". Nodes that
               are added to the network (a probe) compute the sensitivities, and the network outputs only these.

Other observers (Gram matrices, feature maps) see the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal, cast

from onnx import ModelProto, TensorProto

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.calibrate.batch_size import choose_batch
from onnxpfp.calibrate.nonnegative import nonnegative_tensors
from onnxpfp.calibrate.observer import Observer, Shape
from onnxpfp.calibrate.probe import GraphObserver, build_probe, shard_ops
from onnxpfp.calibrate.runner import NetworkRunner
from onnxpfp.calibrate.sample_views import needs_of
from onnxpfp.calibrate.sensitivity.base import FamilyObserver
from onnxpfp.calibrate.sensitivity.device import DeviceSensitivityObserver, Programs
from onnxpfp.calibrate.sensitivity.observer import SensitivityObserver
from onnxpfp.calibrate.sensitivity.scratch import ScratchOfThreads
from onnxpfp.calibrate.sensitivity.settings import Kernel, SensitivitySettings
from onnxpfp.calibrate.statistics import OpStatistics, Statistics
from onnxpfp.data.samples import Samples
from onnxpfp.linear.families import OpFamily, is_screened, op_families, shard_families
from onnxpfp.linear.ops import FileWeight, LinearOp
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.progress import Count
from onnxpfp.runtime.device_memory import DeviceMemory, device_memory_of
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import as_requests

__all__ = ["SensitivityMethod", "calibrate", "calibration_batch", "in_graph_limit"]

SensitivityMethod = Literal["screened", "plain"]
"""How sensitivities are found: both are exact. "plain" computes every share inside the graph."""

SCARCE_BYTES = 16 << 20
"""Limit of one intermediate where weights stay in files, for then memory is scarce."""
_CHUNK_BYTES_CPU = 4 << 20
_CHUNK_BYTES_DEVICE = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Measuring:
    """How the sensitivities of linear ops are measured.

    Attributes:
        requests: Where to run.
        place: Where tensors stay; None is the host.
        families: Ops that are screened.
        in_graph: Ops that are measured in the graph.
        settings: How to compute; they have the samples in one run.
        workspace: Bytes that weights may take in one pass.
    """

    requests: tuple[ProviderRequest, ...]
    place: DeviceMemory | None
    families: tuple[OpFamily, ...]
    in_graph: tuple[LinearOp, ...]
    settings: SensitivitySettings
    workspace: int

    @classmethod
    def of(
        cls,
        model: ModelProto,
        ops: Sequence[LinearOp],
        samples: Samples,
        kernel: Kernel,
        batch_size: int | None,
        providers: str | Sequence[str] | Sequence[ProviderRequest],
        workspace: int,
        observers: Sequence[Observer],
        method: SensitivityMethod,
    ) -> _Measuring:
        """Decide it; the arguments are those of `calibrate`."""
        requests = as_requests(providers)
        on_cpu = all(request.name == CPU for request in requests)
        if any(isinstance(op.weight, FileWeight) for op in ops):
            workspace = min(workspace, SCARCE_BYTES)
        chunk = _CHUNK_BYTES_CPU if on_cpu else _CHUNK_BYTES_DEVICE
        settings = SensitivitySettings(kernel, chunk_bytes=chunk, workspace_bytes=workspace)
        # onnxruntime binds no text, so nothing can stay on a device behind it.
        place = None if on_cpu or _reads_text(model) else device_memory_of(requests)
        screened = method == "screened" and (on_cpu or place is not None)
        families = op_families([op for op in ops if is_screened(op)]) if screened else ()
        in_graph = tuple(op for op in ops if not (screened and is_screened(op)))
        needs: dict[str, Shape] = {name: shape for family in families for name, shape in family.lead.reads.items()}
        limit = in_graph_limit(in_graph, settings) if in_graph else None
        batch = choose_batch(needs | needs_of(observers), samples, batch_size, workspace, limit)
        return cls(tuple(requests), place, tuple(families), in_graph, replace(settings, batch=batch), workspace)


def calibration_batch(
    model: ModelProto,
    ops: Sequence[LinearOp],
    samples: Samples,
    *,
    kernel: Kernel = "sum",
    batch_size: int | None = None,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    workspace_bytes: int = DEFAULT_WORKSPACE,
    observers: Sequence[Observer] = (),
) -> int:
    """Return how many samples run at once where all of them are calibrated on; the arguments are as in `calibrate`."""
    how = _Measuring.of(
        model, ops, samples, kernel, batch_size, providers, workspace_bytes, observers, method="screened"
    )
    return how.settings.batch


def calibrate(
    model: ModelProto,
    ops: Sequence[LinearOp],
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
    first_sample: int = 0,
    batch: int | None = None,
) -> Statistics:
    """Measure the sensitivities and input means of all linear ops, and let observers look on in the same runs.

    Args:
        model: The network; it is not changed.
        ops: What to measure.
        samples: What to feed.
        kernel: "sum" (the bound holds) or "max" (the authors' code).
        batch_size: Most samples in one run; None chooses.
        providers: As in `open_session`.
        threads: Threads of the network's ops, and families of linear ops worked on at once; None takes all cores.
        workspace_bytes: Memory that intermediates may take, as far as one sample at a time can keep it.
        progress: Told how far it is.
        method: "screened", on the CPU or on CUDA, or "plain" as a reference. Other providers take "plain".
        observers: Who else looks at what linear ops read.
        first_sample: Number of the first sample, where these are a shard of all samples.
        batch: Samples in one run, where these are a shard: as many as `calibration_batch` says of all samples.

    Raises:
        CalibrationError: The data do not fit, or the network computes NaN on them.
        ModelError: onnxruntime cannot run the network.
        ProviderError: A provider that was asked for is missing.
    """
    if not ops and not observers:
        return {}
    how = _Measuring.of(model, ops, samples, kernel, batch_size, providers, workspace_bytes, observers, method)
    plan = how.settings if batch is None else replace(how.settings, batch=batch)
    # Weights are copied to the layouts of the measurement, too: where they are too large for that, the samples are run
    # over several times. Observers are fed in the first pass.
    shards = list(zip_longest(shard_families(how.families, how.workspace), shard_ops(how.in_graph), fillvalue=()))
    shards = cast("list[tuple[tuple[OpFamily, ...], tuple[LinearOp, ...]]]", shards) or [((), ())]
    nonnegative = nonnegative_tensors(model) if ops else frozenset[str]()
    model = with_fixed_draws(model)
    runner = NetworkRunner(
        model,
        samples,
        plan.batch,
        how.requests,
        threads,
        total=len(samples) * len(shards),
        progress=progress,
        first_sample=first_sample,
        shrinks=batch_size is None,
        workspace=how.workspace,
        place=how.place,
    )
    programs = None if how.place is None or method == "plain" else Programs(how.place, how.requests, threads)
    statistics: dict[str, OpStatistics] = {}
    for some, others in shards:
        measuring, probe, taps = _probe(model, some, others, observers, plan, nonnegative, programs)
        runner.run([*measuring, *observers], probe, taps)
        statistics.update((name, entry) for observer in measuring for name, entry in observer.statistics().items())
        observers = ()
        if len(shards) > 1:
            # The copies of these weights go before those of the next ones come.
            del measuring, probe
            trim_heap()
    return {op.name: statistics[op.name] for op in ops}


def _probe(
    model: ModelProto,
    families: Sequence[OpFamily],
    ops: Sequence[LinearOp],
    others: Sequence[Observer],
    plan: SensitivitySettings,
    nonnegative: Collection[str],
    programs: Programs | None,
) -> tuple[list[FamilyObserver | GraphObserver], ModelProto | None, tuple[str, ...]]:
    """Make the observers of one pass, and the network that outputs what they need.

    Args:
        model: The network.
        families: Ops that are screened.
        ops: Ops that are measured in the graph.
        others: The other observers.
        plan: How to compute.
        nonnegative: Tensors that provably have no negative entry.
        programs: Programs of screening on a device; None is the host.

    Returns:
        The observers, the network with added outputs (None where it is the model itself), and the tensors that stay on
        the device.
    """
    clean = [family.lead.data in nonnegative and not family.lead.zero for family in families]
    pairs = list(zip(families, clean, strict=True))
    scratch = ScratchOfThreads()
    on_host = [SensitivityObserver(family, plan, each, scratch) for family, each in pairs] if programs is None else []
    if not ops and (programs is None or not families):
        return [*on_host], None, ()
    tapped = () if programs is None else families
    probe = build_probe(model, ops, plan, tapped, needs_of([*on_host, *others]), nonnegative)
    there = [
        DeviceSensitivityObserver(family, plan, each, tap, programs)
        for (family, each), tap in zip(pairs, probe.taps, strict=False)
        if programs is not None
    ]
    return [*on_host, *there, *([probe.observer] if ops else [])], probe.model, probe.taps


def _reads_text(model: ModelProto) -> bool:
    """Whether an input is text."""
    return any(info.type.tensor_type.elem_type == TensorProto.STRING for info in model.graph.input)


def in_graph_limit(ops: Sequence[LinearOp], plan: SensitivitySettings) -> int:
    """Bound the batch of the plain path.

    The largest sums z and their inverse stay within the workspace; three quarters of the linear ops can work on a
    channel within two chunks.
    """
    sums = [2 * FLOAT_BYTES * math.prod(op.output_shape) for op in ops]
    blocks = [
        size // op.group * (op.kernel_size if plan.kernel == "max" else 1) for size, op in zip(sums, ops, strict=True)
    ]
    in_memory = plan.workspace_bytes // max(1, 2 * max(sums))
    if plan.workspace_bytes <= SCARCE_BYTES:
        # In few chunks: a node of the probe takes memory, too.
        chunks = [each * len(op.channels) // plan.max_chunks for each, op in zip(blocks, ops, strict=True)]
        in_memory = min(in_memory, plan.workspace_bytes // max(1, max(chunks)))
    in_cache = 2 * plan.chunk_bytes // max(1, sorted(blocks)[len(blocks) * 3 // 4])
    return min(in_memory, in_cache)
