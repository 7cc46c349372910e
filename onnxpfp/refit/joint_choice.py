"""Choose the producers that are refitted with their consumers, within some forward passes.

What that takes is estimated as multiply-adds before anything is drawn: the pruned network runs the producer once more,
and a fit goes over the rows that are drawn, as often as it does where steps lower the error to the end. What it brings
grows with the share of the producer's channels that go, for those that stay can take over what they did: on ResNet-56
at 0.7 of the multiply-adds the error of the consumers fell by 2 to 34 % where a third or more went, by 0.1 to 2 %
where a tenth did. So chains are taken by that share for each multiply-add. Wide layers, which have the fewest rows for
each unknown, gain least and take most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from onnxpfp.arrays import FLOAT_BYTES, Keep
from onnxpfp.channels.macs import mac_nodes
from onnxpfp.refit.joint_chains import Chain
from onnxpfp.refit.joint_problem import JointEffort
from onnxpfp.refit.layers import kept_parts
from onnxpfp.refit.problem import RefitProblem

__all__ = ["bytes_of_position", "chosen_chains", "positions_per_sample"]

WeightShape = tuple[int, int, int]
"""Convolution groups, outputs of a group, columns of an output."""

ROWS = 2
"""Rows of the producer for each position of a consumer, about: windows overlap."""
TAPE = 4
"""Numbers that are kept for each output of the producer: what it gives, its step, and what is made of it."""
MACS_OF_BATCH = 100_000_000
"""Multiply-adds of onnxruntime in the time that a batch takes beside them: running stages, drawing, calls of numpy.

This and those below are of the processor time of chains of ResNet-20, of the shapes of MobileNetV2 and YOLO and of the
small networks, rounded.
"""
MACS_OF_COLUMN = 500
"""The same for a number that the producer reads, to draw it and to factor."""
MACS_OF_PRODUCT = 15
"""The same for a multiply-add of the producer, which is repeated in every step and every gradient."""
MACS_OF_READ = 4000
"""The same for a number that a consumer reads, which is gathered and scattered in every step."""
MACS_OF_LINK = 2000
"""The same for a number that a depthwise convolution between them reads."""


LEAST_MACS = 32e9 / 3
"""Multiply-adds that count as a forward pass where one is less: 0.3 s, for small networks run faster than any fit.

With a quarter of it those of `models/` had 5 to 16 % more squared error of the scores, and took 0.2 to 0.6 s less.
"""


def chosen_chains(chains: Sequence[Chain], problem: RefitProblem, keep: Keep, effort: JointEffort) -> tuple[Chain, ...]:
    """Return the chains that are worth it, in the order given.

    Args:
        chains: All chains of a network.
        problem: The network and samples.
        keep: Whether each channel stays.
        effort: How much is done, and how many forward passes it may take; all chains are taken where that is infinite.
    """
    if math.isinf(effort.passes):
        return tuple(chains)
    macs = _macs_by_output(problem)
    left = effort.passes * max(_runs(problem) * sum(macs.values()), LEAST_MACS)
    shapes = [_shapes(chain, keep) for chain in chains]
    gains = [_gain(each, problem, keep, effort, chain) for chain, each in zip(chains, shapes, strict=True)]
    costs = [_multiply_adds(each, problem, effort, chain, macs) for chain, each in zip(chains, shapes, strict=True)]
    chosen: set[int] = set()
    for number in sorted(range(len(chains)), key=lambda number: gains[number] / costs[number], reverse=True):
        if gains[number] > 0 and costs[number] <= left:
            chosen.add(number)
            left -= costs[number]
    return tuple(chain for number, chain in enumerate(chains) if number in chosen)


def positions_per_sample(shapes: Sequence[WeightShape], problem: RefitProblem, effort: JointEffort) -> int:
    """Return how many positions of a consumer's output are drawn of a sample, so that half of the workspace does.

    Args:
        shapes: Of the weights of the producer and of its consumers, as far as they stay.
        problem: The network and samples.
        effort: How much is done.
    """
    wanted = problem.positions_for(max(shape[2] for shape in shapes)) // effort.fewer
    return max(1, min(wanted, problem.workspace // 2 // max(1, bytes_of_position(shapes, problem))))


def bytes_of_position(shapes: Sequence[WeightShape], problem: RefitProblem) -> int:
    """Return what one position of a consumer's output of every sample takes, about; arguments as above."""
    groups, outputs, inputs = shapes[0]
    return ROWS * FLOAT_BYTES * groups * (inputs + TAPE * outputs) * _samples(problem)


def _gain(shapes: Sequence[WeightShape], problem: RefitProblem, keep: Keep, effort: JointEffort, chain: Chain) -> float:
    """Return the share of the producer's channels that go, less where there are few rows for each unknown.

    Least squares of n unknowns on m rows have m / (m - n) times the error that endless rows would leave on others.
    """
    if not shapes:
        return 0.0
    rows = positions_per_sample(shapes, problem, effort) * len(problem.fit)
    return (1.0 - float(keep[chain.producer.rows].mean())) * (1.0 - max(shape[2] for shape in shapes) / rows)


def _multiply_adds(
    shapes: Sequence[WeightShape], problem: RefitProblem, effort: JointEffort, chain: Chain, macs: Mapping[str, int]
) -> float:
    """Estimate what the fit of a chain takes."""
    if not shapes:
        return math.inf
    sliding = any(layer.op.kernel_size > 1 for layer in (*chain.consumers, *chain.depthwise))
    rows = positions_per_sample(shapes, problem, effort) * _samples(problem)
    groups, outputs, inputs = shapes[0]
    read = rows * sum(each[0] * each[2] for each in shapes[1:])
    links = rows * sum(layer.op.kernel_size * groups * outputs for layer in chain.depthwise)
    drawn = rows * (ROWS if sliding else 1) * groups * inputs
    batches = -(-_samples(problem) // problem.batch_size)
    # The stage of the consumers runs for their own refits, too.
    again = _runs(problem) * macs.get(chain.producer.output, 0)
    rest = batches * MACS_OF_BATCH + drawn * (MACS_OF_COLUMN + MACS_OF_PRODUCT * outputs)
    return again + rest + read * MACS_OF_READ + links * MACS_OF_LINK


def _shapes(chain: Chain, keep: Keep) -> tuple[WeightShape, ...]:
    """Return the shapes of what stays of the weights of the producer and its consumers.

    Nothing where the groups of one keep unequal parts, or nothing: such a chain is left.
    """
    ops = (chain.producer, *chain.consumers)
    found = [(layer.op.kernel_size, parts) for layer in ops if (parts := kept_parts(layer, keep)) is not None]
    if len(found) < len(ops):
        return ()
    return tuple((len(kept.groups), kept.outputs.shape[1], kept.inputs.shape[1] * taps) for taps, kept in found)


def _macs_by_output(problem: RefitProblem) -> Mapping[str, int]:
    """Return the multiply-adds of one run, by the first output of the node that has them."""
    shapes, macs = problem.analysis.shapes.shape, Counter[str]()
    for node, term in mac_nodes(problem.analysis.model, shapes):
        macs[node.output[0]] += math.prod(shapes[name][axis] for name, axis in term)
    return macs


def _samples(problem: RefitProblem) -> int:
    return len(problem.fit) + len(problem.tuning)


def _runs(problem: RefitProblem) -> int:
    """Return how many runs of the analysed model the samples take; one for each, but for a model with a fixed batch."""
    return _samples(problem) // (problem.fit.fixed_batch or 1)
