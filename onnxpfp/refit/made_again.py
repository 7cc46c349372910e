"""Activations between stages that are made again where they are read, for files would take longer.

An inverted bottleneck widens a few channels to many, which the depthwise convolution behind it alone reads. Where the
wide ones of all samples do not fit into memory, the few stay, and every stage that reads the wide ones computes them
from these: `Stages` does so with whatever has no element type.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Stages

__all__ = ["made_again"]

MOST_COLUMNS = 64
"""Multiply-adds of a number from which on it takes longer to make it up to three times than to keep it in a file."""


def made_again(
    stages: Stages, problem: RefitProblem, layers: Sequence[RefitLayer], limit: int, carried: Collection[str] = ()
) -> frozenset[str]:
    """Choose what the stages of a refit make again, in the original and in the pruned network.

    What only the next stage reads is made again where

    1. what there is between the two stages does not fit,
    2. it takes more memory than what it is made of, which has to stay for one stage more, and
    3. it is made by few multiply-adds.

    Args:
        stages: The stages of the original, with all that is carried between them.
        problem: The network and samples.
        layers: The ops that are refitted.
        limit: Bytes that the activations of one network may take.
        carried: What has to be carried.
    """
    size = _sizes(stages, problem)
    last = {name: depth for depth, stage in enumerate(stages.stages) for name in stage.reads}
    stays = (
        {*carried}
        | {layer.target.shortcut for layer in layers}
        | {layer.consumer.data for layer in layers if layer.op.kernel_size > 1 and not problem.fits(_columns(layer))}
    )
    stays = stays.union(*(layer.inputs for layer in problem.recurrences))
    cheap = [True for _ in stages.stages]
    for layer in layers:
        cheap[stages.depth[layer.output]] &= _columns(layer) <= MOST_COLUMNS
    chosen: set[str] = set()
    for depth, stage in enumerate(stages.stages[:-1]):
        live = sum(size[name] for name, end in last.items() if end > depth >= stages.depth[name])
        wide = {name for name in stage.gives if last[name] == depth + 1 and name not in stays}
        held = {name for name in stage.reads if last[name] == depth}
        pays = sum(map(size.__getitem__, wide)) > sum(map(size.__getitem__, held))
        if live > limit and pays and cheap[depth] and chosen.isdisjoint(stage.reads):
            # What lies between within the stage would be carried in their place.
            chosen |= stages.made(depth) - (set(stage.gives) - wide)
    return frozenset(chosen)


def _columns(layer: RefitLayer) -> int:
    """Return how many numbers one of an op's outputs is made of."""
    return len(layer.op.channels) // layer.op.group * layer.op.kernel_size


def _sizes(stages: Stages, problem: RefitProblem) -> Mapping[str, int]:
    """Return about what activations of all samples take, by name; none of what is fed, which is there in any case."""
    samples = (len(problem.fit) + len(problem.tuning)) // (problem.fit.fixed_batch or 1)
    shapes, read = problem.analysis.shapes.shape, set[str]().union(*(stage.reads for stage in stages.stages))
    return {
        name: FLOAT_BYTES * samples * math.prod(shapes.get(name, ())) if name in stages.makers else 0 for name in read
    }
