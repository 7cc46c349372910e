"""Refit a producer together with its consumers, where the stage of the consumers is next.

The consumers' targets are those of their own refits. The producer reads what it did when its own stage was run, which
is kept until then; after new weights what the consumers read is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from onnxpfp.refit.best_fit import Fit, is_sane
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_chains import Chain, joint_chains
from onnxpfp.refit.joint_choice import chosen_chains
from onnxpfp.refit.joint_machine import Affine, with_channels_first
from onnxpfp.refit.joint_problem import JointEffort, Starts
from onnxpfp.refit.joint_setup import ChainDraw, DrawnRows, draw_chains, joint_problem
from onnxpfp.refit.joint_steps import PRODUCER_RIDGE, joint_fit
from onnxpfp.refit.layer_rows import LayerRows
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.means import Record
from onnxpfp.refit.stage_draw import StageDraw
from onnxpfp.refit.stage_pair import StagePair
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.apply import renew
from onnxpfp.runtime import open_session
from onnxpfp.runtime.workers import Workers

__all__ = ["JointRefit", "TakenJointly", "fit_chain", "found_chains"]

LEAST_GAIN = 0.01
"""Sweeps end where one lowers the error by less than this share of it."""


@dataclass(slots=True, eq=False)
class JointRefit:
    """Refits producers with their consumers, in sweeps over a network.

    Attributes:
        refit_state: The network, which gets the new weights.
        chosen: The chains, in the order of their producers.
        starts: Weights as they are by now, by output, of the ops of the chains at least; they follow.
        first: The same before all sweeps.
        effort: How much is done.
        moved: The producers with new weights, with what these brought; by output.
        chains: The chains by the stage of their consumers.
    """

    refit_state: RefitState
    chosen: Sequence[Chain]
    starts: dict[str, InitialWeights]
    first: Starts
    effort: JointEffort
    moved: dict[str, Record] = field(default_factory=dict[str, Record])
    chains: dict[int, list[Chain]] = field(default_factory=dict[int, list[Chain]])

    @property
    def tensors(self) -> frozenset[str]:
        """Activations of the pruned network that the chains ask for."""
        return frozenset[str]().union(*(chain.tensors for chain in self.chosen))

    def note(self, layer: RefitLayer, fit: Fit) -> None:
        """Write down the new weights of an op, where chains or later sweeps start from them."""
        start = self.starts.get(layer.output)
        if start is not None:
            self.starts[layer.output] = replace(start, weights=fit.weights, bias=fit.bias)

    def repeated(self, sweep: Callable[[int], Mapping[str, Record]]) -> dict[str, Record]:
        """Sweep as long as the error on the tuning samples falls, and keep the best weights.

        The error is the mean over all ops that are no producers of a chain, for the outputs of these are not compared.

        Args:
            sweep: Goes over the network, given the number of the sweep; returns what it brought to each op, by output.
        """
        records = dict(sweep(0))
        for number in range(1, self.effort.sweeps):
            state = self.refit_state
            weights, shifts, recurrent, starts, moved = (
                dict(state.weights),
                dict(state.shifts),
                dict(state.recurrent),
                dict(self.starts),
                dict(self.moved),
            )
            newer = sweep(number)
            if not self._error(newer) < (1 - LEAST_GAIN) * self._error(records):
                state.weights, state.shifts, state.recurrent, self.moved = weights, shifts, recurrent, moved
                self.starts.update(starts)
                break
            for output, record in newer.items():
                records[output] = replace(record, before=records[output].before) if output in records else record
        return records | self.moved

    def _error(self, records: Mapping[str, Record]) -> float:
        producers = {chain.producer.output for chains in self.chains.values() for chain in chains}
        errors = [record.after for output, record in records.items() if output not in producers]
        return float(np.mean(errors)) if errors else np.inf

    def begin(self, pair: StagePair) -> None:
        """Let the pruned network hold what their producers read until their consumers are due."""
        self.chains = {}
        for chain in self.chosen:
            depth = pair.teacher.stages.depth[chain.consumers[0].output]
            self.chains.setdefault(depth, []).append(chain)
            pair.student.hold(chain.producer.consumer.data, depth)

    def due(self, depth: int) -> bool:
        """Tell whether consumers of a chain are in a stage."""
        return depth in self.chains

    def before(self, depth: int, pair: StagePair, own: StageDraw | None) -> None:
        """Refit the producers whose consumers are in the next stage.

        Args:
            depth: The stage.
            pair: Runs it.
            own: Draws the targets of the ops of the stage, as `draw_chains`.
        """
        problem = self.refit_state.problem
        found = (ChainDraw.of(each, self.refit_state, self.starts, pair, self.effort) for each in self.chains[depth])
        groups = [*_within([each for each in found if each is not None], problem.workspace // 8)]
        for number, draws in enumerate(groups):
            drawn = draw_chains(draws, pair, problem, own if number == len(groups) - 1 else None)
            for draw in draws:
                # Of chains that were fitted no rows stay.
                rows = drawn.pop(0)
                if rows is not None:
                    self._fit(draw, rows, pair)

    def _fit(self, draw: ChainDraw, rows: DrawnRows, pair: StagePair) -> None:
        chain = draw.chain
        taken = fit_chain(draw, rows, self.refit_state, self.starts, pair.helpers, self.effort)
        if taken is None:
            return
        name = chain.producer.consumer.name
        before = self.moved[chain.producer.output].before if chain.producer.output in self.moved else taken.before
        self.moved[chain.producer.output] = Record(name, before, taken.after, PRODUCER_RIDGE, joint=True)
        self.starts.update(taken.starts)
        for layer in (chain.producer, *chain.consumers):
            self.refit_state.put(layer, taken.starts[layer.output].weights, taken.starts[layer.output].bias)
        _compute_anew(chain, self.refit_state, pair)

    def alone(self, layer: RefitLayer) -> bool:
        """Tell whether an op is to give the original's outputs itself: not once it was refitted for its consumers."""
        return layer.output not in self.moved

    def plain(self, rows: LayerRows, fit: Fit) -> float:
        """Return the error on the tuning samples with the weights before all sweeps.

        Of an op of low rank these are of full rank, so it is that with those before its own fit, brought to the rank.
        """
        first = self.first.get(rows.layer.output)
        start = self.starts.get(rows.layer.output)
        if first is None or start is first or rows.limit is not None or not np.isfinite(fit.plain):
            return fit.plain
        return rows.tuning.error(first.weights, first.bias, first.sign)


def found_chains(
    refit_state: RefitState, layers: Sequence[RefitLayer], effort: JointEffort, left: frozenset[str]
) -> tuple[Chain, ...]:
    """Find the chains that are refitted, in the order of their producers.

    Args:
        refit_state: The network.
        layers: Its linear ops that are refitted.
        effort: How much is done.
        left: Outputs of ops that belong to no chain.
    """
    problem, keep = refit_state.problem, refit_state.keep
    chains = [
        chain
        for chain in joint_chains(problem.analysis, layers, keep, left)
        if all(problem.fits(_inputs(layer), layer.op.group) for layer in (chain.producer, *chain.consumers))
    ]
    # Where there are ranks several choices are refitted to find the best: of that, this is little.
    return chosen_chains(chains, problem, keep, replace(effort, passes=math.inf) if refit_state.limits else effort)


def _inputs(layer: RefitLayer) -> int:
    return layer.op.kernel_size * layer.op.channels.size // layer.op.group


def _compute_anew(chain: Chain, refit_state: RefitState, pair: StagePair) -> None:
    """Compute what the pruned network holds of a chain with the new weights of its producer."""
    student = pair.student
    graph, stages = refit_state.problem.analysis.graph, student.stages
    renew(stages.model, graph, refit_state.held, refit_state.all_edits([chain.producer]), pair.nodes)
    names = sorted(chain.tensors - {chain.producer.consumer.data})
    held = [name for name in names if name in student.cache.batches[0]]
    part = stages.between([stages.makers[name] for name in names], chain.producer.consumer.data, held)
    assert part is not None, "the links read nothing else"
    session = open_session(part, student.requests, threads=student.threads, shared=True)
    batches = range(len(student.cache.batches))
    for batch, made in enumerate(pair.helpers.in_order(partial(student.compute, session), batches)):
        student.cache.drop(batch, held)
        student.cache.put(batch, {name: made[name] for name in held})


def _within(draws: Iterable[ChainDraw], limit: int) -> Iterator[list[ChainDraw]]:
    """Put chains together whose rows fit a limit in bytes."""
    group: list[ChainDraw] = []
    for draw in draws:
        if group and sum(each.bytes for each in group) + draw.bytes > limit:
            yield group
            group = []
        group.append(draw)
    if group:
        yield group


@dataclass(frozen=True, slots=True, eq=False)
class TakenJointly:
    """New weights of a chain.

    Attributes:
        starts: The ops as they are now, by output.
        before: Error of the consumers on the tuning samples with the producer as it was, as a share of the variance
            of what they should give; their mean.
        after: The same with the new weights.
    """

    starts: Starts
    before: float
    after: float


def fit_chain(
    draw: ChainDraw, rows: DrawnRows, refit_state: RefitState, starts: Starts, helpers: Workers, effort: JointEffort
) -> TakenJointly | None:
    """Fit a producer and its consumers; None where nothing is better on the tuning samples.

    Args:
        draw: The chain, and what it drew; the stage of its consumers is next.
        rows: Its rows.
        refit_state: The network.
        starts: Its linear ops as they are.
        helpers: Threads that share the rows.
        effort: How much is done.
    """
    chain = draw.chain
    fit = joint_fit(joint_problem(draw, rows, refit_state, starts, effort), helpers)
    if fit is None:
        return None
    fits = zip((chain.producer, *chain.consumers), (fit.weights.producer, *fit.weights.consumers), strict=True)
    new = {layer.output: _stored(layer, starts[layer.output], each) for layer, each in fits}
    if not all(is_sane(each.weights, each.bias, starts[name]) for name, each in new.items()):
        return None
    return TakenJointly(new, fit.before, fit.after)


def _stored(layer: RefitLayer, start: InitialWeights, fit: Affine) -> InitialWeights:
    weights = start.stored(with_channels_first(fit.weights, layer.op.kernel_size))
    return replace(start, weights=weights, bias=fit.bias)
