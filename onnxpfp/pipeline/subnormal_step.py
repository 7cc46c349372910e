"""Subnormal weights become zero before anything is measured, so that channels that die by it go first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

from onnxpfp.calibrate.batch_size import samples_at_once
from onnxpfp.calibrate.observer import Shape
from onnxpfp.calibrate.runner import run_observers
from onnxpfp.channels import Analysis
from onnxpfp.errors import CalibrationError, ModelError
from onnxpfp.lossless.detect import Trace
from onnxpfp.lossless.subnormal import SubnormalWeights, of_file, subnormal_weights, zeroed_weights
from onnxpfp.lossless.traces import Site, traces_of
from onnxpfp.model.constants import Constants
from onnxpfp.model.index import ModelIndex
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.progress import Count
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits

__all__ = ["zero_subnormal_weights"]

SAMPLES = 64
"""Most samples on which it is looked how large numbers get; they may be larger by far (`model.subnormal.headroom`)."""


def zero_subnormal_weights(network: Network) -> Network:
    """Write subnormal weights of linear ops as zero where no result can tell; where nothing goes, nothing changes."""
    return replace(network, parts=tuple(_with_zeros(part) for part in network.parts))


def _with_zeros(part: NetworkPart) -> NetworkPart:
    context, whole = part.context, part.context.whole
    with context.clock.phase("load"):
        counts = subnormal_weights(whole)
    stored = of_file(whole, counts)
    found = SubnormalWeights(sum(stored.values()), len(stored))
    own = counts.keys() - part.shared.keys()
    if own and not part.stays and (context.chooses or context.plan is not None):
        with context.clock.phase("lossless") as progress:
            edits, zeroed = _zeroed(context, own, progress)
            if edits:
                whole, found = _edited(whole, edits), replace(found, zeroed=sum(of_file(whole, zeroed).values()))
    return replace(part, context=replace(context, whole=whole, subnormal=found))


def _zeroed(context: RunContext, own: Collection[str], progress: Count) -> tuple[Edits, dict[str, int]]:
    """Look how large what linear ops read gets, and put zeros where that allows it."""
    samples = context.data.samples
    watch = partial(
        run_observers,
        context.whole.model,
        samples=samples.take(SAMPLES) if len(samples) > SAMPLES else samples,
        batch_size=context.batch_limit,
        limit=samples_at_once(context.whole),
        providers=context.requests,
        threads=context.options.threads,
        workspace_bytes=context.options.workspace,
        progress=progress,
        layout=False,
    )

    def traces(sites: Collection[Site], shapes: Mapping[str, Shape]) -> dict[Site, Trace]:
        return traces_of(watch, sites, shapes)

    try:
        return zeroed_weights(context.whole, own, traces)
    except (CalibrationError, ModelError):
        if context.data.given == "file":
            raise
        # Made-up inputs need not be ones that the network can bear.
        return Edits(), {}


def _edited(whole: Analysis, edits: Edits) -> Analysis:
    """Put new numbers into the stored weights of a model; its channels and shapes stay."""
    model = apply(whole.model, whole.graph, whole.graph.keep_all(), edits, whole.source.scratch)
    source = whole.source.rewritten(model)
    return replace(whole, source=source, constants=Constants.of(model), index=ModelIndex.of(model))
