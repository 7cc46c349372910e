"""Refit a producer together with its consumers, where the stage of the consumers is next.

The consumers' targets are those of their own refits. The producer reads what it did when its own stage was run, which
is kept until then; after new weights what the consumers read is computed anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.arrays import FLOAT_BYTES, Floats, Floats32
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_chains import Chain, joint_chains
from onnxpfp.refit.joint_machine import Affine, ChainMachine, channels_first, taps_first
from onnxpfp.refit.joint_rows import ChainRows, chain_rows
from onnxpfp.refit.joint_steps import Batch, JointFit, joint_fit
from onnxpfp.refit.layer_rows import LayerRows, layer_families
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.pointwise import Pointwise
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Runner
from onnxpfp.refit.state import RefitState
from onnxpfp.runtime import open_session
from onnxpfp.runtime.workers import ALONE, Workers

__all__ = ["JointPlan", "TakenJointly", "fit_chain", "plan_joint"]

MOREPOS = 0
Starts = Mapping[str, InitialWeights]
"""Weights of linear ops as they are by now, by output."""


@dataclass(frozen=True, slots=True, eq=False)
class JointPlan:
    """The chains of a network.

    Attributes:
        chains: Chains by the stage of their consumers, in the order of their producers.
        held: The last stage that reads an input of a producer, by tensor.
    """

    chains: Mapping[int, tuple[Chain, ...]]
    held: Mapping[str, int]


def plan_joint(problem: RefitProblem, layers: Sequence[RefitLayer], keep: Floats, depth: Mapping[str, int]) -> JointPlan:
    """Find the chains of a network.

    Args:
        problem: The network.
        layers: Its linear ops that are refitted.
        keep: Whether each channel stays.
        depth: Stage of every tensor.
    """
    chains: dict[int, tuple[Chain, ...]] = {}
    held: dict[str, int] = {}
    for chain in joint_chains(problem.analysis, layers, keep):
        if not all(problem.fits(_columns(layer), layer.op.group) for layer in (chain.producer, *chain.consumers)):
            continue
        stage = depth[chain.consumers[0].output]
        chains[stage] = (*chains.get(stage, ()), chain)
        data = chain.producer.consumer.data
        held[data] = max(stage, held.get(data, 0))
    return JointPlan(chains, held)


def _columns(layer: RefitLayer) -> int:
    return layer.op.kernel_size * layer.op.channels.size // layer.op.group


@dataclass(frozen=True, slots=True, eq=False)
class TakenJointly:
    """New weights of a chain.

    Attributes:
        starts: The ops as they are now, by output.
        before: Error on the tuning samples with the producer as it was.
        after: The same with the new weights.
    """

    starts: Starts
    before: float
    after: float


def fit_chain(
    chain: Chain,
    refit_state: RefitState,
    starts: Starts,
    teacher: Runner,
    student: Runner,
    fitted: int,
    helpers: Workers,
) -> Starts | None:
    """Fit a producer and its consumers; returns the ops as they are then by output, None where nothing is better.

    Args:
        chain: The chain; the stage of its consumers is next.
        refit_state: The network.
        starts: The ops as they are.
        teacher: Runs the original.
        student: Runs the pruned network.
        fitted: Batches to fit; those behind are tuning samples.
        helpers: Threads that share the batches.
    """
    problem = refit_state.problem
    links = _pointwise(chain, student, problem)
    members = _members(chain, refit_state, starts, teacher, student)
    if links is None or members is None:
        return None
    batches = _drawn(chain, problem, members, starts, teacher, student, helpers, fitted)
    if batches is None:
        return None
    machine = ChainMachine(
        links,
        tuple(_affine(layer, starts) for layer in chain.depthwise),
        _importance(members, batches),
        tuple(starts[layer.output].sign for layer in chain.consumers),
    )
    producer, consumers = _affine(chain.producer, starts), tuple(_affine(layer, starts) for layer in chain.consumers)
    biased = starts[chain.producer.output].biased, tuple(starts[layer.output].biased for layer in chain.consumers)
    count = sum(1 for number, _ in batches if number < fitted)
    rows = [Batch(each) for _, each in batches]
    start = JointFit(producer, consumers, np.inf)
    best = joint_fit(machine, rows[:count], rows[count:], start, biased, helpers)
    if best is None:
        return None
    fits = zip((chain.producer, *chain.consumers), (best.producer, *best.consumers), strict=True)
    return {layer.output: _stored(layer, starts[layer.output], fit) for layer, fit in fits}


def _affine(layer: RefitLayer, starts: Starts) -> Affine:
    start = starts[layer.output]
    return Affine(taps_first(start.weights, layer.op.kernel_size), start.bias)


def _stored(layer: RefitLayer, start: InitialWeights, fit: Affine) -> InitialWeights:
    weights = start.stored(channels_first(fit.weights, layer.op.kernel_size))
    return replace(start, weights=weights, bias=fit.bias)


def _pointwise(chain: Chain, student: Runner, problem: RefitProblem) -> tuple[Pointwise, ...] | None:
    links: list[Pointwise] = []
    for link, layer in zip(chain.links, (chain.producer, *chain.depthwise), strict=True):
        rank = len(problem.analysis.shapes.shape[layer.output])
        act = Pointwise.of(link, student.stages, rank, layer.axis, problem.requests)
        if act is None:
            return None
        links.append(act)
    return tuple(links)


def _members(
    chain: Chain, refit_state: RefitState, starts: Starts, teacher: Runner, student: Runner
) -> list[LayerRows] | None:
    """Return the consumers with their targets."""
    given = student.cache.batches[0]
    families = layer_families(refit_state, chain.consumers, starts, teacher.made(), given, ALONE)
    members = {member.layer.output: member for family in families for member in family.members}
    return [members[layer.output] for layer in chain.consumers]


def _drawn(
    chain: Chain,
    problem: RefitProblem,
    members: Sequence[LayerRows],
    starts: Starts,
    teacher: Runner,
    student: Runner,
    helpers: Workers,
    fitted: int,
) -> list[tuple[int, ChainRows]] | None:
    """Draw the rows of all batches; None where some are not finite, or nothing could be drawn."""
    names = sorted(set[str]().union(*(member.shows() for member in members)))
    made = [name for name in names if name in teacher.made()]
    session = None
    if made:
        part = teacher.stages.part(teacher.next, teacher.next, made)
        session = open_session(part, problem.requests, threads=teacher.threads, shared=True)
    groups = len(starts[chain.producer.output].weights)
    per_sample = _per_sample(chain, problem, starts)

    def draw(batch: int) -> ChainRows | None:
        given = student.cache.batches[batch]
        shown = {**teacher.cache.batches[batch], **teacher.compute(session, batch)}
        rng = np.random.default_rng([problem.seed, teacher.next, 1 << 16, batch])
        return chain_rows(chain, members, groups, per_sample, shown, given, rng)

    found: list[tuple[int, ChainRows]] = []
    for number, rows in enumerate(helpers.in_order(draw, range(len(teacher.cache.batches)))):
        if rows is None or not len(rows.columns):
            continue
        if not np.isfinite(rows.columns).all() or not all(np.isfinite(each.targets).all() for each in rows.wanted):
            return None
        found.append((number, rows))
    return found if any(n < fitted for n, _ in found) and any(n >= fitted for n, _ in found) else None


def _per_sample(chain: Chain, problem: RefitProblem, starts: Starts) -> int:
    """Return how many positions of a consumer's output are drawn of a sample."""
    columns = max(starts[layer.output].weights.shape[2] for layer in (chain.producer, *chain.consumers))
    wanted = max(problem.positions_for(columns), MOREPOS)
    sizes = [starts[layer.output].weights.shape for layer in (chain.producer,)]
    groups, outputs, inputs = sizes[0]
    row = FLOAT_BYTES * groups * (inputs + 4 * outputs)
    samples = len(problem.fit) + len(problem.tuning)
    return max(1, min(wanted, problem.workspace // 2 // max(1, 2 * row * samples)))


def _importance(members: Sequence[LayerRows], batches: Sequence[tuple[int, ChainRows]]) -> tuple[Floats32, ...]:
    """Return what the squared errors of each output count: as where it is compared, as a share of the variance there."""
    counts: list[Floats32] = []
    for number, member in enumerate(members):
        scale = np.square(member.layer.target.scale[member.stays] if member.reached else np.ones(member.stays.sum()))
        targets = [rows.wanted[number].targets for _, rows in batches]
        total = sum(len(each) for each in targets)
        mean = sum(each.sum(0, np.float64) for each in targets) / total
        square = sum(np.square(each - mean).sum(0) for each in targets) / total
        scale = scale.reshape(np.shape(square))
        counts.append((scale / max(float((scale * square).sum()), 1e-30)).astype(np.float32))
    return tuple(counts)
