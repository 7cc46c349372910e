"""The input of the refits: the linear ops, samples to fit, and samples that decide whether a fit is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate.batch_size import largest_activation, samples_at_once
from onnxpfp.channels import Analysis, Group
from onnxpfp.data.samples import Samples
from onnxpfp.data.splits import Split
from onnxpfp.low_rank.layers import LowRankLayer
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.ranked_layers import ranked_layers
from onnxpfp.progress import Count
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.gram import Gram, GramObserver, collect_grams, gram_observers
from onnxpfp.refit.layers import RefitLayer, refit_layers
from onnxpfp.refit.recurrent_layers import recurrent_layers
from onnxpfp.refit.sweep import RefitProblem
from onnxpfp.score.group_data import ConsumerGram

__all__ = [
    "POSITIONS",
    "RefitSetup",
    "batch_size_of",
    "consumer_grams",
    "grams_of",
    "refit_setup",
    "start_gram_observers",
]

POSITIONS = 64
"""Output positions that are drawn of every sample."""
TOO_WIDE = "the Gram matrix of all that its gates read takes more than an eighth of --workspace"
"""Why a recurrence is not refitted."""

MOST = 64
"""Most samples in a run where activations are small."""
SMALL_BYTES = 2 << 20
"""Bytes of one activation in a run up to which it is small."""


@dataclass(frozen=True, slots=True, eq=False)
class RefitSetup:
    """The linear ops and samples of the refits, and the ops that cannot be refitted.

    Attributes:
        problem: The network, its linear ops and the samples.
        left: Consumers of channels that cannot be refitted, with the reason.
        rankable: Layers whose ranks are chosen beside the channels, as `ranked_layers` gives them.
    """

    problem: RefitProblem
    left: tuple[tuple[str, str], ...]
    rankable: tuple[tuple[LowRankLayer, RefitLayer], ...]


def refit_setup(context: RunContext, analysis: Analysis, split: Split) -> RefitSetup:
    """Find the linear ops of a model and put everything together that refits need."""
    options = context.options
    layers, left = refit_layers(analysis)
    recurrences, others = recurrent_layers(analysis)
    problem = RefitProblem(
        analysis=analysis,
        layers=layers,
        fit=split.fit,
        tuning=split.tuning,
        batch_size=batch_size_of(context, analysis, split.fit),
        positions=POSITIONS,
        workspace=options.workspace,
        requests=context.requests,
        threads=options.threads,
        seed=options.seed,
    )
    narrow = tuple(layer for layer in recurrences if problem.fits(layer.columns))
    wide = tuple((layer.name, TOO_WIDE) for layer in recurrences if layer not in narrow)
    problem = replace(problem, recurrences=narrow)
    return RefitSetup(problem, (*left, *others, *wide), ranked_layers(context, analysis, problem))


def batch_size_of(context: RunContext, analysis: Analysis, samples: Samples) -> int:
    """Return how many samples run together.

    No more than `samples_at_once`. Where nobody asks for a number it is up to `MOST` as long as activations lie within
    `SMALL_BYTES`: many small runs take time.
    """
    most = context.data.batch_size
    if samples.fixed_batch is None and context.options.batch_size is None and most > 1:
        most = max(most, min(MOST, SMALL_BYTES // largest_activation(analysis)))
    return min(most, samples_at_once(analysis))


def _reading(setup: RefitSetup) -> list[RefitLayer]:
    """List the ops that read channels."""
    return [layer for layer in setup.problem.layers if layer.op.channels.any()]


def start_gram_observers(setup: RefitSetup, *, fits_only: bool) -> tuple[GramObserver, ...]:
    """Start to collect the Gram matrices of all ops that read channels, and of those whose ranks are chosen.

    Args:
        setup: What refits work on.
        fits_only: Whether nothing but widths is chosen by them.
    """
    wanted = {layer.output: layer for layer in (*_reading(setup), *(layer for _, layer in setup.rankable))}
    # The rest of it is for what else is measured in the same runs.
    spill = SpillCache(setup.problem.workspace // 16)
    return gram_observers(setup.problem, wanted.values(), spill, fits_only=fits_only and not setup.rankable)


def grams_of(setup: RefitSetup, progress: Count) -> dict[str, Gram]:
    """Collect them where the calibration did not, as nothing was chosen by them."""
    return collect_grams(setup.problem, _reading(setup), SpillCache(setup.problem.workspace), progress)


def _consumer_grams_of(layer: RefitLayer, gram: Gram, index: NDArray[np.int64]) -> Iterator[ConsumerGram]:
    """Yield the weights and covariance of every convolution group of an op that reads a group of channels."""
    op = layer.op
    weights = np.split(layer.gain * op.taps().astype(np.float64), op.group)
    for number, (weight, channels) in enumerate(zip(weights, np.split(op.channels, op.group), strict=True)):
        channel = np.repeat(index[channels], op.kernel_size)
        if (channel >= 0).any():
            block = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
            yield ConsumerGram(gram.covariance(number), block, channel)


def consumer_grams(setup: RefitSetup, grams: Mapping[str, Gram], group: Group) -> list[ConsumerGram]:
    """List the weights and covariances of the consumers of a group that can be refitted."""
    graph = setup.problem.analysis.graph
    layers = {layer.output: layer for layer in setup.problem.layers}
    index = np.full(graph.count + 1, -1)
    index[group.channels] = np.arange(group.channels.size)
    names = [graph.consumers[position].output for position in group.consumers]
    return [gram for name in names if name in grams for gram in _consumer_grams_of(layers[name], grams[name], index)]
