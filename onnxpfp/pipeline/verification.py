"""Hold the pruned model against the original before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.channels import Analysis
from onnxpfp.channels.macs import count_macs, count_stored
from onnxpfp.data.samples import Feed
from onnxpfp.errors import VerificationError
from onnxpfp.model.shapes import concrete_shapes
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork
from onnxpfp.progress import Count
from onnxpfp.runtime.external_data import size_of
from onnxpfp.verify.drift import Drift, check
from onnxpfp.verify.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["BodyVerification", "Size", "Verification", "verify"]

ORACLE_RUNS = 2
LARGEST_TRIAL = 1 << 20
"""Numbers; larger inputs are not doubled."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model.

    Attributes:
        params: Stored numbers of all weights.
        macs: Multiply-adds for one sample; those of bodies of If, Loop and Scan count as often as the original's run.
        bytes: Size of the file, external weights included.
    """

    params: int
    macs: int
    bytes: int


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
        drift: The pruned model against the original; None without data.
        before: Size of the original.
        after: Size of the pruned model, measured anew.
    """

    oracle: Equivalence
    bodies: tuple[BodyVerification, ...]
    drift: Drift | None
    before: Size
    after: Size


def verify(
    parts: Sequence[MeasuredPart],
    pruned: PrunedNetwork,
    evaluator: Evaluator | None,
    *,
    unchanged: bool,
    progress: Count,
) -> Verification:
    """Check, run and compare the pruned model.

    Args:
        parts: The parts of the original, without the channels that cost nothing.
        pruned: The pruned model.
        evaluator: Compares with the original; None without data.
        unchanged: Whether nothing was removed.
        progress: Told how many samples the drift is measured on so far, of how many.

    Raises:
        VerificationError: The pruned model is not what it must be.
    """
    allowed = [tolerance(each.measured.analysis.model, each.measured.analysis.shapes) for each in parts]
    main, candidate = parts[0], pruned.whole
    oracles = [_oracle(main, candidate, max(allowed))]
    oracles += map(_oracle, parts[1:], pruned.candidates[1:], allowed[1:])
    macs = [_macs(each, None if unchanged else one) for each, one in zip(parts, pruned.candidates, strict=True)]
    source, samples = main.part.context.whole.source, main.part.context.data.samples.fixed_batch or 1
    before, after = (
        round(sum(each.part.runs * one[side] for each, one in zip(parts, macs, strict=True))) // samples
        for side in (0, 1)
    )
    size = Size(count_stored(source.model), before, source.size_bytes)
    smaller = size if unchanged else Size(count_stored(candidate.model), after, size_of(candidate.model))
    drift = None if evaluator is None else evaluator.drift(candidate.model, progress)
    bodies = tuple(BodyVerification(oracle, *counts) for oracle, counts in zip(oracles[1:], macs[1:], strict=True))
    return Verification(oracles[0], bodies, drift, size, smaller)


def _oracle(measured_part: MeasuredPart, candidate: Candidate, allowed: float) -> Equivalence:
    """Check a part, and hold it against its masked original."""
    context, measured = measured_part.part.context, measured_part.measured
    feed = next(context.data.samples.batches(1))
    check(measured.analysis.model, candidate.model)
    _check_rewriting(context, measured.analysis, feed)
    return check_equivalence(
        candidate.mask,
        candidate.model,
        _feeds(context, measured),
        allowed=allowed,
        trials=_other_sizes(measured.analysis.model, feed),
        providers=context.requests,
        threads=context.options.threads,
    )


def _macs(measured_part: MeasuredPart, candidate: Candidate | None) -> tuple[int, int]:
    """Count the multiply-adds of a part in one run, before and after; there is no candidate where nothing went."""
    context = measured_part.part.context
    before = count_macs(context.whole.model, context.whole.shapes)
    if candidate is None:
        return before, before
    feed = next(context.data.samples.batches(1))
    shapes = concrete_shapes(candidate.model, context.whole.shapes.inputs, feed)
    return before, count_macs(candidate.model, shapes)


def _check_rewriting(context: RunContext, analysis: Analysis, feed: Feed) -> None:
    """Make sure that the model that was pruned computes what the given one does, where it is written in other words.

    Bodies of local functions stand in their places there, weights are folded, shuffles are permutations.

    Raises:
        VerificationError: They do not.
    """
    given = analysis.source.rewritten_from
    if given is None:
        return
    allowed = tolerance(analysis.model, analysis.shapes)
    requests, threads = context.requests, context.options.threads
    try:
        check_equivalence(given, analysis.model, [feed], allowed=allowed, providers=requests, threads=threads)
    except VerificationError as error:
        raise VerificationError(
            f"{analysis.source.title}: rewritten for pruning, it computes something else: {error}",
            hint="please report it with the model",
        ) from error


def _feeds(context: RunContext, measured: Measured) -> list[Feed]:
    """Take a few sets of inputs for the oracle, unseen ones where there are any."""
    samples = context.data.split.held_out if context.data.split else measured.calibration.scored
    batches = samples.batches(min(context.data.batch_size, 4))
    return [feed for feed, _ in zip(batches, range(ORACLE_RUNS), strict=False)]


def _other_sizes(model: ModelProto, feed: Mapping[str, NDArray[np.generic]]) -> list[Mapping[str, NDArray[np.generic]]]:
    """Double the free first axes, and all free axes: what is right at one size only shows there.

    Exporters write the sizes of their example into a graph that promises others, so the model may not take them.
    """
    free = {
        info.name: [axis for axis, dim in enumerate(info.type.tensor_type.shape.dim) if dim.dim_value <= 0]
        for info in model.graph.input
        if info.name in feed
    }
    first = {name: [axis for axis in axes if axis == 0] for name, axes in free.items()}
    wanted = [axes for axes in (first, free) if any(axes.values())]
    sizes = [{name: _doubled(array, axes.get(name, [])) for name, array in feed.items()} for axes in wanted]
    return [size for size in sizes if sum(array.size for array in size.values()) <= LARGEST_TRIAL]


def _doubled(array: NDArray[np.generic], axes: Sequence[int]) -> NDArray[np.generic]:
    return np.tile(array, [2 if axis in axes else 1 for axis in range(array.ndim)])
