"""Hold the pruned model against the original before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.channels import Analysis
from onnxpfp.channels.macs import count_macs, count_params
from onnxpfp.errors import VerificationError
from onnxpfp.model.shapes import Shapes, concrete_shapes
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import CalibrationData
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.scoring import Calibration
from onnxpfp.progress import Count
from onnxpfp.runtime.external_data import size_of
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.verify.drift import Drift, check
from onnxpfp.verify.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.verify.evaluator import Evaluator

__all__ = ["Size", "Verification", "verify"]

ORACLE_RUNS = 2
LARGEST_TRIAL = 1 << 20
"""Numbers; larger inputs are not doubled."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is.

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
    """What the comparison found.

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
    whole: Analysis,
    analysis: Analysis,
    done: Candidate,
    evaluator: Evaluator | None,
    calibration: Calibration,
    data: CalibrationData,
    requests: Sequence[ProviderRequest],
    options: Options,
    *,
    unchanged: bool,
    tell: Count,
) -> Verification:
    """Check, run and compare the pruned model.

    Args:
        whole: The original.
        analysis: The same without the channels that cost nothing.
        done: The pruned model.
        evaluator: Compares with the original; None without data.
        calibration: Which samples the calibration has seen.
        data: The samples.
        requests: Where to run.
        options: How to prune.
        unchanged: Whether nothing was removed.
        tell: Told how many samples the drift is measured on so far, of how many.

    Raises:
        VerificationError: The pruned model is not what it must be.
    """
    source = analysis.source
    check(source.model, done.model)
    _check_rewriting(analysis, data, requests, options)
    oracle = check_equivalence(
        done.mask,
        done.model,
        _feeds(calibration, data),
        allowed=tolerance(source.model, analysis.shapes),
        trials=_other_sizes(source.model, next(data.samples.batches(1))),
        providers=requests,
        threads=options.threads,
    )
    samples = data.samples.fixed_batch or 1
    before = _size(whole.source.model, whole.shapes, samples, source.size_bytes)
    if unchanged:
        after = before
    else:
        shapes = concrete_shapes(done.model, analysis.shapes.inputs, next(data.samples.batches(1)))
        after = _size(done.model, shapes, samples, size_of(done.model))
    drift = None if evaluator is None else evaluator.drift(done.model, tell)
    return Verification(oracle, drift, before, after)


def _check_rewriting(
    analysis: Analysis, data: CalibrationData, requests: Sequence[ProviderRequest], options: Options
) -> None:
    """Make sure that the model that was pruned computes what the given one does, where it is written in other words.

    Bodies of local functions stand in their places there, weights are folded, shuffles are permutations.

    Raises:
        VerificationError: They do not.
    """
    given = analysis.source.rewritten_from
    if given is None:
        return
    feeds = [next(data.samples.batches(1))]
    allowed = tolerance(analysis.source.model, analysis.shapes)
    try:
        check_equivalence(
            given, analysis.source.model, feeds, allowed=allowed, providers=requests, threads=options.threads
        )
    except VerificationError as error:
        raise VerificationError(
            f"{analysis.source.title}: rewritten for pruning, it computes something else: {error}",
            hint="please report it with the model",
        ) from error


def _feeds(calibration: Calibration, data: CalibrationData) -> list[Mapping[str, NDArray[np.generic]]]:
    """Take a few sets of inputs for the oracle, unseen ones where there are any."""
    samples = calibration.held_out or calibration.seen
    batches = samples.batches(min(data.batch_size, 4))
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
