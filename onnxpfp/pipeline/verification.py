"""Hold the pruned model against the original before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.arrays import Keep
from onnxpfp.channels import Analysis
from onnxpfp.channels.macs import count_macs, count_params
from onnxpfp.data.samples import Feed
from onnxpfp.errors import VerificationError
from onnxpfp.model.shapes import Shapes, concrete_shapes
from onnxpfp.pipeline.calibration import Measured
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.progress import Count
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.runtime.external_data import size_of
from onnxpfp.verify.drift import Drift, check
from onnxpfp.verify.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["Size", "Verification", "verify"]

ORACLE_RUNS = 2
LARGEST_TRIAL = 1 << 20
"""Numbers; larger inputs are not doubled."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model.

    Attributes:
        params: Stored numbers of all weights.
        macs: Multiply-adds of Conv, ConvTranspose, Gemm and MatMul for one sample.
        bytes: Size of the file, external weights included.
    """

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """The result of comparing the pruned model with the original.

    Attributes:
        oracle: The pruned model against the masked original.
        drift: The pruned model against the original; None without data.
        before: Size of the original.
        after: Size of the pruned model, measured anew.
    """

    oracle: Equivalence
    drift: Drift | None
    before: Size
    after: Size


def verify(
    context: RunContext,
    measured: Measured,
    candidate: Candidate,
    evaluator: Evaluator | None,
    *,
    cleared: Keep,
    unchanged: bool,
    progress: Count,
) -> Verification:
    """Check, run and compare the pruned model.

    Args:
        context: The original, the samples, and where to run.
        measured: The original without the channels that cost nothing.
        candidate: The pruned model.
        evaluator: Compares with the original; None without data.
        cleared: Whether each channel of the original stayed when those that cost nothing went.
        unchanged: Whether nothing was removed.
        progress: Told how many samples the drift is measured on so far, of how many.

    Raises:
        VerificationError: The pruned model is not what it must be.
    """
    analysis, samples = measured.analysis, context.data.samples
    feed = next(samples.batches(1))
    check(analysis.model, candidate.model)
    _check_rewriting(context, analysis, feed, cleared)
    oracle = check_equivalence(
        candidate.mask,
        candidate.model,
        _feeds(context, measured),
        allowed=tolerance(analysis.model, analysis.shapes),
        trials=_other_sizes(analysis.model, feed),
        kept=partial(what_stays, analysis.graph, candidate.keep),
        providers=context.requests,
        threads=context.options.threads,
    )
    per_run = samples.fixed_batch or 1
    before = _size(context.whole.model, context.whole.shapes, per_run, analysis.source.size_bytes)
    if unchanged:
        after = before
    else:
        shapes = concrete_shapes(candidate.model, analysis.shapes.inputs, feed)
        after = _size(candidate.model, shapes, per_run, size_of(candidate.model))
    drift = None if evaluator is None else evaluator.drift(candidate.model, progress)
    return Verification(oracle, drift, before, after)


def _check_rewriting(context: RunContext, analysis: Analysis, feed: Feed, cleared: Keep) -> None:
    """Make sure that the model that was pruned computes what the given one does, where it is written in other words.

    Bodies of local functions stand in their places there, weights are folded, shuffles are permutations.

    Raises:
        VerificationError: They do not.
    """
    given = analysis.source.rewritten_from
    if given is None:
        return
    allowed = tolerance(analysis.model, analysis.shapes)
    try:
        check_equivalence(
            given,
            analysis.model,
            [feed],
            allowed=allowed,
            providers=context.requests,
            threads=context.options.threads,
            kept=partial(what_stays, context.whole.graph, cleared),
        )
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


def _size(model: ModelProto, shapes: Shapes, samples: int, size_bytes: int) -> Size:
    return Size(count_params(model), count_macs(model, shapes, samples), size_bytes)
