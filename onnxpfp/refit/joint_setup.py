"""Draw what a joint refit works on, where the stage of the consumers is next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np

from onnxpfp.arrays import Arrays, Floats32
from onnxpfp.refit.joint_chains import Chain
from onnxpfp.refit.joint_choice import bytes_of_position, positions_per_sample
from onnxpfp.refit.joint_machine import Affine, ChainMachine, with_taps_first
from onnxpfp.refit.joint_problem import ChainBatch, JointEffort, JointProblem, JointWeights, Starts
from onnxpfp.refit.joint_ranks import RankedConsumer, RankedProducer
from onnxpfp.refit.joint_rows import ChainRows, chain_rows, joined
from onnxpfp.refit.layer_rows import LayerRows, TargetDraw, layer_families
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.pointwise import Pointwise
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.stage_draw import StageDraw
from onnxpfp.refit.stage_pair import StagePair
from onnxpfp.refit.stages import Runner
from onnxpfp.refit.state import RefitState
from onnxpfp.runtime import open_session
from onnxpfp.runtime.workers import ALONE

__all__ = ["ChainDraw", "DrawnRows", "draw_chains", "joint_problem"]

JOINT = 1 << 16
"""Sets these draws apart from those of the other refits."""
PIECE_BYTES = 1 << 20
"""Bytes of the producer's columns in a piece, about: steps of numpy are few so, and some threads find a piece."""
LEAST_BYTES = 1 << 18
"""Bytes of the producer's columns up to which all rows are one piece: a thread more takes longer than it helps."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainDraw:
    """What a chain draws where the stage of its consumers is next.

    Attributes:
        chain: The chain.
        links: Its element-wise ops.
        members: Its consumers, with their targets.
        groups: Convolution groups of the producer that keep anything.
        per_sample: Positions of a consumer's output that are drawn of one sample.
        bytes: What the rows of all samples take, about.
    """

    chain: Chain
    links: tuple[Pointwise, ...]
    members: tuple[LayerRows, ...]
    groups: int
    per_sample: int
    bytes: int

    @classmethod
    def of(
        cls, chain: Chain, refit_state: RefitState, starts: Starts, pair: StagePair, effort: JointEffort
    ) -> Self | None:
        """Find out what a chain draws; None where its ops cannot be followed."""
        problem = refit_state.problem
        links = _pointwise(chain, pair.student, problem)
        if links is None:
            return None
        shapes = [starts[layer.output].weights.shape for layer in (chain.producer, *chain.consumers)]
        per_sample = positions_per_sample(shapes, problem, effort)
        members = tuple(_members(chain, refit_state, starts, pair))
        return cls(chain, links, members, shapes[0][0], per_sample, per_sample * bytes_of_position(shapes, problem))

    def shows(self) -> set[str]:
        """Return the tensors of the original that the targets are computed from."""
        return set[str]().union(*(member.shows() for member in self.members))

    def rows(self, shown: Arrays, given: Arrays, rng: np.random.Generator) -> ChainRows | None:
        """Draw the rows of one batch, as `chain_rows`."""
        return chain_rows(self.chain, self.members, self.groups, self.per_sample, shown, given, rng)


@dataclass(slots=True, eq=False)
class DrawnRows:
    """The rows of a chain.

    Attributes:
        fitted: Of the samples to fit, batch by batch, then piece by piece.
        tuning: Of the tuning samples.
        finite: Whether all numbers so far were.
    """

    fitted: list[ChainRows] = field(default_factory=list[ChainRows])
    tuning: list[ChainRows] = field(default_factory=list[ChainRows])
    finite: bool = True

    def add(self, rows: ChainRows | None, *, tuning: bool) -> None:
        """Add the rows of a batch."""
        if rows is None or not len(rows.columns):
            return
        self.finite &= bool(np.isfinite(rows.columns).all() and all(np.isfinite(w.targets).all() for w in rows.wanted))
        (self.tuning if tuning else self.fitted).append(rows)

    def join(self) -> None:
        """Join the rows of small batches, for each step does little with each."""
        self.fitted, self.tuning = _pieces(self.fitted), _pieces(self.tuning)


def _pieces(rows: list[ChainRows]) -> list[ChainRows]:
    """Join the rows of batches to an even number of pieces of about one size, so that two threads end together.

    Args:
        rows: By batch, of which there is an even number. It is emptied, so that each row is there once.
    """
    size = sum(each.columns.nbytes for each in rows)
    count = 1 if size < LEAST_BYTES else 2 * max(1, round(size / (2 * PIECE_BYTES)))
    bounds = [len(rows) * number // count for number in range(count + 1)]
    pieces: list[ChainRows] = []
    for first, last in pairwise(bounds):
        if first < last:
            pieces.append(joined(rows[: last - first]))
            del rows[: last - first]
    return pieces


def draw_chains(
    draws: Sequence[ChainDraw], pair: StagePair, problem: RefitProblem, own: StageDraw | None
) -> list[DrawnRows | None]:
    """Draw the rows of chains with consumers in the next stage of the original, which runs once for all of them.

    Args:
        draws: What each chain draws.
        pair: The networks.
        problem: What the samples and the seed are of.
        own: Draws what the ops of the stage should give themselves, so that it need not run again for that: then what
            later stages of the original read is kept. None leaves the stage to be run again.

    Returns:
        The rows of each chain; None where some are not finite, or there is nothing to fit or to compare.
    """
    teacher, student = pair.teacher, pair.student
    names = sorted(set[str]().union(*(each.shows() for each in draws), own.shows() if own else ()) & teacher.made())
    if own is None:
        part = teacher.stages.part(teacher.next, teacher.next, names)
        session = open_session(part, problem.requests, threads=teacher.threads, shared=True)
    else:
        session, _ = teacher.open(names)

    def draw(batch: int) -> tuple[list[ChainRows | None], list[TargetDraw | None]]:
        given, shown = student.cache.batches[batch], teacher.compute(session, batch)
        seeds = [problem.seed, teacher.next, JOINT, batch]
        rows = [each.rows(shown, given, np.random.default_rng(seeds)) for each in draws]
        targets = [] if own is None else own.targets(batch, shown, given)
        if own is not None:
            teacher.keep(batch, shown)
        return rows, targets

    drawn = [DrawnRows() for _ in draws]
    for batch, (rows, targets) in enumerate(pair.helpers.in_order(draw, range(len(teacher.cache.batches)))):
        if own is not None:
            own.drawn.append(targets)
        for each, one in zip(drawn, rows, strict=True):
            each.add(one, tuning=batch >= pair.fitted)
    for each in drawn:
        each.join()
    return [each if each.finite and each.fitted and each.tuning else None for each in drawn]


def joint_problem(
    draw: ChainDraw, rows: DrawnRows, refit_state: RefitState, starts: Starts, effort: JointEffort
) -> JointProblem:
    """Set up the fit of a chain.

    Args:
        draw: What the chain drew.
        rows: Its rows.
        refit_state: As in `fit_chain`.
        starts: As there.
        effort: As there.
    """
    chain = draw.chain
    machine = ChainMachine(
        draw.links,
        tuple(_affine(layer, starts) for layer in chain.depthwise),
        _importance(draw.members, [*rows.fitted, *rows.tuning]),
        tuple(starts[layer.output].sign for layer in chain.consumers),
    )
    ranked = tuple(_ranked_consumer(layer, refit_state, starts) for layer in chain.consumers)
    return JointProblem(
        machine,
        tuple(map(ChainBatch, rows.fitted)),
        tuple(map(ChainBatch, rows.tuning)),
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


def _importance(members: Sequence[LayerRows], batches: Sequence[ChainRows]) -> tuple[Floats32, ...]:
    """Return what the squared error of an output counts, (g, o) for each consumer.

    Errors count where the target compares them, as a share of the variance there, and all consumers the same: the sum
    over the rows of the first one is the mean of these shares, times their number.
    """
    counts: list[Floats32] = []
    rows = [sum(len(each.wanted[number].targets) for each in batches) for number in range(len(members))]
    for number, member in enumerate(members):
        targets = [each.wanted[number].targets for each in batches]
        mean = sum(each.sum(0, np.float64) for each in targets) / rows[number]
        square = sum(np.square(each - mean).sum(0, np.float64) for each in targets) / rows[number]
        whole = member.layer.target.scale[member.stays] if member.reached else np.ones(int(member.stays.sum()))
        scale = np.square(whole).reshape(np.shape(square))
        share = max(float((scale * square).sum()), np.finfo(np.float32).tiny)
        counts.append((scale / (share * len(members)) * (rows[0] / rows[number])).astype(np.float32))
    return tuple(counts)
