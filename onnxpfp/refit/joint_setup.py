"""Draw what a joint refit works on, where the stage of the consumers is next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from onnxpfp.arrays import Floats32
from onnxpfp.refit.joint_chains import Chain
from onnxpfp.refit.joint_choice import positions_per_sample
from onnxpfp.refit.joint_machine import Affine, ChainMachine, with_taps_first
from onnxpfp.refit.joint_problem import ChainBatch, JointEffort, JointProblem, JointWeights, Starts
from onnxpfp.refit.joint_ranks import RankedConsumer, RankedProducer
from onnxpfp.refit.joint_rows import ChainRows, chain_rows
from onnxpfp.refit.layer_rows import LayerRows, layer_families
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.pointwise import Pointwise
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stages import Runner
from onnxpfp.refit.state import RefitState
from onnxpfp.runtime import open_session
from onnxpfp.runtime.workers import ALONE, Workers

__all__ = ["StagePair", "joint_problem"]

JOINT = 1 << 16
"""Sets these draws apart from those of the other refits."""


class StagePair(Protocol):
    """The original and the pruned network, run stage by stage side by side (`sweep.py`)."""

    @property
    def teacher(self) -> Runner:
        """Runs the original."""
        ...

    @property
    def student(self) -> Runner:
        """Runs the pruned network."""
        ...

    @property
    def nodes(self) -> Mapping[int, str]:
        """An output of every node of the original."""
        ...

    @property
    def fitted(self) -> int:
        """Batches of samples to fit; those behind are tuning samples."""
        ...

    @property
    def helpers(self) -> Workers:
        """Threads that share the batches."""
        ...


def joint_problem(
    chain: Chain, refit_state: RefitState, starts: Starts, pair: StagePair, effort: JointEffort
) -> JointProblem | None:
    """Draw the rows of a chain; None where it cannot be followed, or some numbers are not finite.

    Args:
        chain: As in `fit_chain`.
        refit_state: As there.
        starts: As there.
        pair: As there.
        effort: As there.
    """
    problem = refit_state.problem
    links, members = _pointwise(chain, pair.student, problem), _members(chain, refit_state, starts, pair)
    batches = None if links is None else _drawn(chain, problem, members, starts, pair, effort)
    if links is None or batches is None:
        return None
    machine = ChainMachine(
        links,
        tuple(_affine(layer, starts) for layer in chain.depthwise),
        _importance(members, batches),
        tuple(starts[layer.output].sign for layer in chain.consumers),
    )
    ranked = tuple(_ranked_consumer(layer, refit_state, starts) for layer in chain.consumers)
    return JointProblem(
        machine,
        tuple(ChainBatch(rows) for number, rows in batches if number < pair.fitted),
        tuple(ChainBatch(rows) for number, rows in batches if number >= pair.fitted),
        JointWeights(_affine(chain.producer, starts), tuple(_affine(layer, starts) for layer in chain.consumers)),
        starts[chain.producer.output].biased,
        tuple(starts[layer.output].biased for layer in chain.consumers),
        effort.rounds,
        _ranked_producer(chain.producer, refit_state),
        ranked,
        all(
            each is None or layer.output in refit_state.weights
            for each, layer in zip(ranked, chain.consumers, strict=True)
        ),
    )


def _ranked_producer(layer: RefitLayer, refit_state: RefitState) -> RankedProducer | None:
    limit = refit_state.limits.get(layer.output)
    return None if limit is None else RankedProducer(limit, layer.op.kernel_size)


def _ranked_consumer(layer: RefitLayer, refit_state: RefitState, starts: Starts) -> RankedConsumer | None:
    limit = refit_state.limits.get(layer.output)
    return None if limit is None else RankedConsumer(limit, starts[layer.output], layer.op.kernel_size)


def _affine(layer: RefitLayer, starts: Starts) -> Affine:
    start = starts[layer.output]
    return Affine(with_taps_first(start.weights, layer.op.kernel_size), start.bias)


def _pointwise(chain: Chain, student: Runner, problem: RefitProblem) -> tuple[Pointwise, ...] | None:
    links: list[Pointwise] = []
    for link, layer in zip(chain.links, (chain.producer, *chain.depthwise), strict=True):
        rank = len(problem.analysis.shapes.shape[layer.output])
        act = Pointwise.of(link, student.stages, rank, layer.axis, problem.requests)
        if act is None:
            return None
        links.append(act)
    return tuple(links)


def _members(chain: Chain, refit_state: RefitState, starts: Starts, pair: StagePair) -> list[LayerRows]:
    """Return the consumers with their targets."""
    given = pair.student.cache.batches[0]
    families = layer_families(refit_state, chain.consumers, starts, pair.teacher.made(), given, ALONE)
    members = {member.layer.output: member for family in families for member in family.members}
    return [members[layer.output] for layer in chain.consumers]


def _drawn(
    chain: Chain,
    problem: RefitProblem,
    members: Sequence[LayerRows],
    starts: Starts,
    pair: StagePair,
    effort: JointEffort,
) -> list[tuple[int, ChainRows]] | None:
    """Draw the rows of all batches; None where some are not finite, or there is nothing to fit or to compare."""
    teacher, student = pair.teacher, pair.student
    names = sorted(set[str]().union(*(member.shows() for member in members)) & teacher.made())
    part = teacher.stages.part(teacher.next, teacher.next, names)
    session = open_session(part, problem.requests, threads=teacher.threads, shared=True)
    groups = len(starts[chain.producer.output].weights)
    shapes = [starts[layer.output].weights.shape for layer in (chain.producer, *chain.consumers)]
    per_sample = positions_per_sample(shapes, problem, effort)

    def draw(batch: int) -> ChainRows | None:
        rng = np.random.default_rng([problem.seed, teacher.next, JOINT, batch])
        given = student.cache.batches[batch]
        return chain_rows(chain, members, groups, per_sample, teacher.compute(session, batch), given, rng)

    found: list[tuple[int, ChainRows]] = []
    for number, rows in enumerate(pair.helpers.in_order(draw, range(len(teacher.cache.batches)))):
        if rows is None or not len(rows.columns):
            continue
        if not np.isfinite(rows.columns).all() or not all(np.isfinite(each.targets).all() for each in rows.wanted):
            return None
        found.append((number, rows))
    both = {number < pair.fitted for number, _ in found}
    return found if len(both) == 2 else None


def _importance(members: Sequence[LayerRows], batches: Sequence[tuple[int, ChainRows]]) -> tuple[Floats32, ...]:
    """Return what the squared error of an output counts, (g, o) for each consumer.

    Errors count where the target compares them, as a share of the variance there, and all consumers the same: the sum
    over the rows of the first one is the mean of these shares, times their number.
    """
    counts: list[Floats32] = []
    rows = [sum(len(each.wanted[number].targets) for _, each in batches) for number in range(len(members))]
    for number, member in enumerate(members):
        targets = [each.wanted[number].targets for _, each in batches]
        mean = sum(each.sum(0, np.float64) for each in targets) / rows[number]
        square = sum(np.square(each - mean).sum(0, np.float64) for each in targets) / rows[number]
        whole = member.layer.target.scale[member.stays] if member.reached else np.ones(int(member.stays.sum()))
        scale = np.square(whole).reshape(np.shape(square))
        share = max(float((scale * square).sum()), np.finfo(np.float32).tiny)
        counts.append((scale / (share * len(members)) * (rows[0] / rows[number])).astype(np.float32))
    return tuple(counts)
