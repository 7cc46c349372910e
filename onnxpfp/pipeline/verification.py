"""Hold the pruned model against the original before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.channels.macs import count_macs, count_stored
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.comparison.evaluator import Comparison, Evaluator
from onnxpfp.comparison.growth import growth
from onnxpfp.comparison.layers import LayerErrors
from onnxpfp.data.samples import Feed
from onnxpfp.errors import ModelError, VerificationError
from onnxpfp.model.activation_memory import ActivationPeak, activation_peak
from onnxpfp.model.draws import without_record
from onnxpfp.model.edit import forget_records
from onnxpfp.model.functions import calls_namesake, with_named_overloads
from onnxpfp.model.order import with_sorted_nodes
from onnxpfp.model.provenance import provenance_bytes
from onnxpfp.model.shapes import Shapes, concrete_shapes
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.layer_errors import measure_layer_errors
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, WrittenNetwork
from onnxpfp.progress import Count
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.runtime.external_data import size_of
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.runtime.session import open_session

__all__ = ["BodyVerification", "Size", "Verification", "verify_pruned"]

ORACLE_RUNS = 2
ORACLE_SAMPLES = 2
"""Samples of a run of the oracle: a wrong channel shows at any of them, and these runs are not optimized."""
NOTED = "what it says of itself in its metadata; --no-metadata leaves that out"
"""Why a file is larger than the original in which nothing else took more."""
LARGEST_TRIAL = 1 << 20
"""Numbers; larger inputs are not doubled."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model.

    Attributes:
        params: Stored numbers of all weights.
        macs: Multiply-adds for one sample; those of bodies of If, Loop and Scan count as often as the original's run.
        bytes: Size of the file, external weights included.
        activations: The peak of the main graph's activations in one run.
    """

    params: int
    macs: int
    bytes: int
    activations: ActivationPeak


@dataclass(frozen=True, slots=True, eq=False)
class BodyVerification:
    """The result of comparing a pruned body with the original, fed what the original network feeds it.

    Attributes:
        oracle: The pruned body against the masked original.
        before: Multiply-adds of the original in one run.
        after: Those of the pruned one.
    """

    oracle: Equivalence
    before: int
    after: int


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The result of comparing the pruned model with the original.

    Attributes:
        oracle: The pruned model against the masked original.
        bodies: The same of every body.
        comparison: The pruned model against the original; None without data.
        candidates: Of so many networks one was chosen with the samples of the comparison: 1 where they decided nothing,
            0 where they decided more than that.
        layers: The errors of its layers on held-out samples; None where there are none, or nothing went.
        before: Size of the original.
        after: Size of the pruned model, measured anew.
        growth: Why its file is larger than the original's; empty where it is not.
        refused: What onnxruntime says against the file as it was given; empty where it loads it.
    """

    oracle: Equivalence
    bodies: tuple[BodyVerification, ...]
    comparison: Comparison | None
    candidates: int
    layers: LayerErrors | None
    before: Size
    after: Size
    growth: str
    refused: str


def verify_pruned(
    parts: Sequence[MeasuredPart],
    pruned: PrunedNetwork,
    written: WrittenNetwork,
    evaluator: Evaluator | None,
    candidates: int,
    *,
    unchanged: bool,
    progress: Count,
) -> Verification:
    """Check, run and compare the pruned model.

    Args:
        parts: The parts of the original, without the channels that cost nothing.
        pruned: The pruned model, whose parameters and MACs are counted as the original's are: weights that the graph
            computes are stored.
        written: The same as it will be written.
        evaluator: Compares with the original; None without data.
        candidates: Of so many networks one was chosen with the samples of the evaluator, as in `Verification`.
        unchanged: Whether nothing was removed.
        progress: Told how many samples drift and layers are measured on so far, of how many.

    Raises:
        VerificationError: The pruned model is not what it must be.
    """
    allowed = [tolerance(each.measured.analysis.model, each.measured.analysis.shapes) for each in parts]
    main, source = parts[0], parts[0].part.context.whole.source
    stored = source.completed(written.whole)
    if source.tail is not None:
        check(source.whole, stored)
    oracles = [_oracle(main, pruned.whole, written.whole, max(allowed))]
    oracles += map(_oracle, parts[1:], pruned.candidates[1:], written.parts[1:], allowed[1:])
    refused = [_check_rewriting(each) for each in parts]
    trim_heap()
    shapes = [None if unchanged else _shapes(each, one) for each, one in zip(parts, pruned.candidates, strict=True)]
    macs = [_macs(*counted) for counted in zip(parts, pruned.candidates, shapes, strict=True)]
    samples = main.part.context.data.samples.fixed_batch or 1
    before, after = (
        round(sum(each.part.runs * one[side] for each, one in zip(parts, macs, strict=True))) // samples
        for side in (0, 1)
    )
    whole = main.part.context.whole
    size = Size(count_stored(source.whole), before, source.size_bytes, activation_peak(whole.model, whole.shapes))
    smaller, larger = size, ""
    comparison = None if evaluator is None else evaluator.compare(written.whole, progress)
    trim_heap()
    provenance = main.part.context.provenance
    if unchanged and main.part.context.classes is not None:
        told = provenance.measured(comparison and comparison.drift, source.given)
        smaller = replace(size, bytes=size.bytes + provenance_bytes(source.given, told))
    if shapes[0] is not None:
        params = count_stored(source.completed(pruned.whole.model))
        peak = activation_peak(pruned.candidates[0].model, shapes[0])
        plain = without_record(stored)
        noted = provenance_bytes(plain, provenance.measured(comparison and comparison.drift, plain))
        smaller = Size(params, after, size_of(plain) + noted, peak)
        if smaller.bytes > size.bytes:
            larger = NOTED if smaller.bytes - noted <= size.bytes else growth(source, stored)
    layers = None
    if evaluator is not None and candidates and not unchanged:
        layers = measure_layer_errors(main, pruned, evaluator, candidates, progress)
        trim_heap()
    bodies = tuple(BodyVerification(oracle, *counts) for oracle, counts in zip(oracles[1:], macs[1:], strict=True))
    return Verification(oracles[0], bodies, comparison, candidates, layers, size, smaller, larger, refused[0])


def _oracle(measured_part: MeasuredPart, candidate: Candidate, written: ModelProto, allowed: float) -> Equivalence:
    """Check a part, and hold it against its masked original."""
    context, measured = measured_part.part.context, measured_part.measured
    analysis, samples = measured.analysis, context.data.samples
    feed = next(samples.batches(1))
    check(analysis.model, written, context.whole.source.rewritten_from or analysis.model)
    return check_equivalence(
        candidate.mask,
        written,
        _feeds(context, measured),
        allowed=allowed,
        trials=_other_sizes(analysis.model, feed, samples.axes),
        kept=partial(what_stays, analysis.graph, candidate.keep),
        providers=context.requests,
        threads=context.options.threads,
    )


def _shapes(measured_part: MeasuredPart, candidate: Candidate) -> Shapes:
    """Find the shapes of what is left of a part, at the inputs of the original."""
    context = measured_part.part.context
    return concrete_shapes(candidate.model, context.whole.shapes.inputs, next(context.data.samples.batches(1)))


def _macs(measured_part: MeasuredPart, candidate: Candidate, shapes: Shapes | None) -> tuple[int, int]:
    """Count the multiply-adds of a part in one run, before and after; without shapes nothing went."""
    whole = measured_part.part.context.whole
    before = count_macs(whole.model, whole.shapes)
    return before, before if shapes is None else count_macs(candidate.model, shapes)


def _check_rewriting(measured_part: MeasuredPart) -> str:
    """Make sure that the model that was pruned computes what the given one does, where it is written in other words.

    Bodies of local functions stand in their places there, weights are folded, shuffles are permutations. Where
    onnxruntime does not load the given one, it stands here as near to the file as it does: nodes sorted, overloads of
    functions under names of their own.

    Returns:
        What onnxruntime says against the given one; empty where it loads it.

    Raises:
        VerificationError: They do not.
    """
    context, analysis = measured_part.part.context, measured_part.measured.analysis
    given = analysis.source.rewritten_from
    if given is None:
        return ""
    refused = _refusal(given, context)
    if refused:
        nearest = ModelProto()
        nearest.CopyFrom(with_named_overloads(with_sorted_nodes(given)))
        given = forget_records(nearest)
        if _refusal(given, context):
            return refused
    allowed = tolerance(analysis.model, analysis.shapes)
    try:
        check_equivalence(
            given,
            analysis.model,
            [next(context.data.samples.batches(1))],
            allowed=allowed,
            providers=context.requests,
            threads=context.options.threads,
            kept=partial(what_stays, context.whole.graph, measured_part.lossless.keep),
        )
    except VerificationError as error:
        raise VerificationError(
            f"{analysis.source.title}: rewritten for pruning, it computes something else: {error}",
            hint="please report it with the model",
        ) from error
    return refused


def _refusal(model: ModelProto, context: RunContext) -> str:
    """Return what onnxruntime says against a model; empty where it loads it."""
    if calls_namesake(model):
        # onnxruntime would go on inlining for ever.
        return "a local function calls an overload of itself"
    try:
        open_session(model, context.requests, threads=context.options.threads, optimize=False)
    except ModelError as error:
        return str(error).removeprefix("onnxruntime cannot load the model: ")
    return ""


def _feeds(context: RunContext, measured: Measured) -> list[Feed]:
    """Take a few sets of inputs for the oracle, unseen ones where there are any."""
    held_out = context.data.held_out
    samples = measured.calibration.scored if held_out is None else held_out
    batches = samples.batches(min(context.data.batch_size, ORACLE_SAMPLES))
    return [feed for feed, _ in zip(batches, range(ORACLE_RUNS), strict=False)]


def _other_sizes(
    model: ModelProto, feed: Mapping[str, NDArray[np.generic]], sample_axes: Mapping[str, int | None]
) -> list[Mapping[str, NDArray[np.generic]]]:
    """Double the free sample axes, and all free axes: what is right at one size only shows there.

    Exporters write the sizes of their example into a graph that promises others, so the model may not take them.
    """
    free = {
        info.name: [axis for axis, dim in enumerate(info.type.tensor_type.shape.dim) if dim.dim_value <= 0]
        for info in model.graph.input
        if info.name in feed
    }
    first = {name: [axis for axis in axes if axis == sample_axes.get(name, 0)] for name, axes in free.items()}
    # Where only the sample axes are free, both are the same.
    wanted = [axes for axes in ([first, free] if first != free else [first]) if any(axes.values())]
    sizes = [{name: _doubled(array, axes.get(name, [])) for name, array in feed.items()} for axes in wanted]
    return [size for size in sizes if sum(array.size for array in size.values()) <= LARGEST_TRIAL]


def _doubled(array: NDArray[np.generic], axes: Sequence[int]) -> NDArray[np.generic]:
    return np.tile(array, [2 if axis in axes else 1 for axis in range(array.ndim)])
