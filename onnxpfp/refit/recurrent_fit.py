"""Refit a recurrence: W, R and the biases of the units that stay, towards what the original's gates are made of.

It is fitted twice. First on the states that the original has before each step, as far as they stay (teacher forcing);
then on those that the pruned network has with the weights of the first fit, as it will have in the end. Both are held
against the weights as they were by what counts: the hidden states that the recurrence gives at all steps of the tuning
samples, which are in no fit. The best of the three stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyArray, AnyFloats, Floats
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_setup import StagePair
from onnxpfp.refit.means import Record
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.recurrent_layers import HIDDEN, LENGTHS, PEEPHOLES, RecurrentLayer, RecurrentWeights, X
from onnxpfp.refit.recurrent_rows import Direction, DirectionRows, GatePart, Steps, joined, states_before
from onnxpfp.refit.recurrent_runs import RecurrentRun
from onnxpfp.refit.ridge import Regression, best_fit
from onnxpfp.refit.rows import RowBatch, SampledRows
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.slices import sliced

__all__ = ["RecurrentFit", "fit_recurrence"]

RECURRENT = 1 << 17
"""Sets these draws apart from those of the other refits."""
SHARE = 4
"""Rows may take one part in so many of the workspace; the rest of them lies in files."""


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentFit:
    """New weights of a recurrence.

    Attributes:
        weights: At full size.
        changed: Whether they are better than those before.
        record: What they bring.
    """

    weights: RecurrentWeights
    changed: bool
    record: Record


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """What was drawn from one batch.

    Attributes:
        tuning: Whether it is of tuning samples.
        steps: The drawn steps of each direction.
        rows: Their rows, with the original's states.
        wanted: What the original's units that stay give at all steps, (steps, directions, rows, H'); None but of
            tuning samples.
    """

    tuning: bool
    steps: tuple[Steps, ...]
    rows: tuple[DirectionRows, ...]
    wanted: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Weights of what stays, and what they were fitted with.

    Attributes:
        directions: The weights.
        ridge: The largest ridge that was chosen; infinity where none was.
        error: Mean squared error of the states on the tuning samples, summed over the units.
        states: States before the drawn steps, by batch and direction, as the pruned network has them.
    """

    directions: list[Direction]
    ridge: float
    error: float
    states: list[list[AnyFloats]]


def fit_recurrence(
    layer: RecurrentLayer, refit_state: RefitState, pair: StagePair, before: RecurrentWeights
) -> RecurrentFit | None:
    """Refit one recurrence whose stage is next; None where the two networks do not run it on the same steps.

    Args:
        layer: The recurrence.
        refit_state: The network.
        pair: Runs it beside the original.
        before: Its weights by now, at full size.
    """
    machine = _Machine.of(layer, refit_state, pair)
    drawn = machine.drawn()
    if drawn is None:
        return None
    keep = refit_state.keep
    plain = machine.measured(Direction.of(layer, layer.kept(before, keep)), np.inf, drawn)
    starts = Direction.of(layer, layer.kept(layer.weights(), keep))
    forced = machine.measured(*_fitted(starts, drawn, machine, None), drawn)
    free = machine.measured(*_fitted(starts, drawn, machine, forced), drawn)
    best = min((plain, forced, free), key=lambda each: each.error)
    spread = _spread(drawn)
    if not np.isfinite(plain.error) or not spread:
        return None
    record = Record(layer.name, plain.error / spread, best.error / spread, best.ridge)
    return RecurrentFit(layer.widened(joined(best.directions), keep), best is not plain, record)


@dataclass(frozen=True, slots=True, eq=False)
class _Machine:
    """Runs a recurrence of both networks, and draws rows.

    Attributes:
        layer: The recurrence.
        state: The network.
        pair: Runs it beside the original.
        teacher: The original's.
        student: That of the pruned network.
        spill: Where rows are kept.
    """

    layer: RecurrentLayer
    state: RefitState
    pair: StagePair
    teacher: RecurrentRun
    student: RecurrentRun
    spill: SpillCache

    @classmethod
    def of(cls, layer: RecurrentLayer, state: RefitState, pair: StagePair) -> Self:
        analysis = state.problem.analysis
        constant = {
            position: layer.inputs[position]
            for position in range(LENGTHS, PEEPHOLES + 1)
            if layer.inputs[position] in analysis.constants.names
        }
        whole = {position: analysis.constants.value(name) for position, name in constant.items()}
        cut: dict[int, AnyArray] = {}
        for position, name in constant.items():
            uses = analysis.graph.uses.get(name, {})
            axes = uses.get((layer.index, position), analysis.graph.axes.get(name, ()))
            cut[position] = sliced(whole[position], axes, state.held)
        teacher = RecurrentRun.of(layer, pair.teacher, whole, analysis.graph.keep_all())
        student = RecurrentRun.of(layer, pair.student, cut, state.held)
        return cls(layer, state, pair, teacher, student, SpillCache(state.problem.workspace // SHARE))

    @property
    def _batches(self) -> range:
        return range(len(self.pair.teacher.cache.batches))

    def drawn(self) -> list[_Drawn] | None:
        """Draw the rows of all batches; None where the two networks do not run on the same steps."""
        found = list(self.pair.helpers.in_order(self._draw, self._batches))
        drawn = [each for each in found if each is not None]
        return drawn if len(drawn) == len(found) else None

    def _draw(self, batch: int) -> _Drawn | None:
        given, x = self.teacher.given(X, batch), self.student.given(X, batch)
        assert given is not None
        assert x is not None
        if given.shape[:2] != x.shape[:2] or not (np.isfinite(given).all() and np.isfinite(x).all()):
            return None
        tuning, stays = batch >= self.pair.fitted, self.state.keep[self.layer.units]
        whole = self.layer.weights()
        states = self.teacher.states(self.layer.stored(whole), batch)
        rng = np.random.default_rng([self.state.problem.seed, RECURRENT, self.layer.index, batch])
        first, lengths = self.teacher.given(HIDDEN, batch), self.teacher.given(LENGTHS, batch)
        steps: list[Steps] = []
        rows: list[DirectionRows] = []
        for number, original in enumerate(Direction.of(self.layer, whole)):
            some = Steps.drawn(x.shape[0], x.shape[1], lengths, self._rows_of_batch(tuning=tuning), rng)
            initial = None if first is None else first[number]
            before = states_before(some, states[:, number], initial, reverse=self.layer.reverse[number])
            terms = original.terms(given[some.step, some.row], before)
            kept = [None if term is None else self._put(term[..., stays]) for term in terms]
            assert kept[0] is not None
            assert kept[1] is not None
            inputs, states_kept = self._put(x[some.step, some.row]), self._put(before[:, stays])
            rows.append(DirectionRows(inputs, states_kept, kept[0], kept[1], kept[2]))
            steps.append(some)
        wanted = self.spill.put(states[..., stays]) if tuning else None
        return _Drawn(tuning, tuple(steps), tuple(rows), wanted)

    def _put(self, array: AnyFloats) -> NDArray[np.float32]:
        return self.spill.put(np.ascontiguousarray(array, np.float32))

    def _rows_of_batch(self, *, tuning: bool) -> int:
        """Return how many rows of each direction are drawn of a batch."""
        problem = self.state.problem
        samples, fitted = (problem.tuning, problem.fit)[not tuning], self.pair.fitted
        batches = len(self._batches) - fitted if tuning else fitted
        return -(-problem.positions_for(self.layer.columns) * len(samples) // max(batches, 1))

    def measured(self, directions: list[Direction], ridge: float, drawn: Sequence[_Drawn]) -> _Candidate:
        """Run the pruned network's recurrence with some weights."""
        keep, layer = self.state.keep, self.layer
        stored = layer.stored(layer.widened(joined(directions), keep))
        kept = {position: sliced(array, layer.axes[position], keep) for position, array in stored.items()}

        def states_of(batch: int) -> tuple[list[AnyFloats], float, int]:
            states, first = self.student.states(kept, batch), self.student.given(HIDDEN, batch)
            before = [
                states_before(
                    steps, states[:, number], None if first is None else first[number], reverse=layer.reverse[number]
                )
                for number, steps in enumerate(drawn[batch].steps)
            ]
            wanted = drawn[batch].wanted
            if wanted is None:
                return before, 0.0, 0
            gaps = (states - wanted).astype(np.float64).ravel()
            return before, float(gaps @ gaps), gaps.size // max(wanted.shape[-1], 1)

        results = list(self.pair.helpers.in_order(states_of, self._batches))
        count = sum(each[2] for each in results)
        error = sum(each[1] for each in results) / max(count, 1)
        return _Candidate(directions, ridge, error, [each[0] for each in results])


def _spread(drawn: Sequence[_Drawn]) -> float:
    """Return the variance of the original's states on the tuning samples, summed over the units; 0 where none differ."""
    shown = [each.wanted for each in drawn if each.wanted is not None]
    if not shown:
        return 0.0
    states = np.concatenate([array.reshape(-1, array.shape[-1]) for array in shown]).astype(np.float64)
    return float(states.var(axis=0).sum()) if len(states) else 0.0


def _fitted(
    starts: Sequence[Direction], drawn: Sequence[_Drawn], machine: _Machine, last: _Candidate | None
) -> tuple[list[Direction], float]:
    """Fit all directions.

    Args:
        starts: The weights that the ridge pulls towards.
        drawn: The rows.
        machine: Has the problem.
        last: Whose states are read; None reads the original's.

    Returns:
        The new weights, and the largest ridge of those that changed.
    """
    problem, dtype = machine.state.problem, machine.layer.arrays[1].dtype
    directions: list[Direction] = []
    ridges: list[float] = []
    for number, start in enumerate(starts):
        fitted = replace(start, w=start.w.copy(), r=start.r.copy(), b=start.b.copy())
        rows = [
            each.rows[number] if last is None else replace(each.rows[number], states=last.states[batch][number])
            for batch, each in enumerate(drawn)
        ]
        tuning = [each.tuning for each in drawn]
        for part in start.parts:
            ridges.append(_fit_part(part, fitted, rows, tuning, problem, dtype, own_reset=last is not None))
        directions.append(fitted)
    return directions, max((ridge for ridge in ridges if np.isfinite(ridge)), default=np.inf)


def _fit_part(
    part: GatePart,
    weights: Direction,
    rows: Sequence[DirectionRows],
    tuning: Sequence[bool],
    problem: RefitProblem,
    dtype: np.dtype[Any],
    *,
    own_reset: bool,
) -> float:
    """Fit some gates of a direction in place; returns the ridge.

    Args:
        part: The gates.
        weights: The direction, with the reset gate fitted where these gates read it.
        rows: Its rows, by batch.
        tuning: Which batches are of tuning samples.
        problem: The network.
        dtype: Of the stored weights.
        own_reset: Whether states are multiplied by the reset gate of these weights, not by the original's.
    """
    before, bias = part.read_from(weights)
    start = _initial(before, bias, dtype)
    samples = {
        is_tuning: SampledRows(Moments.empty(1, before.shape[1], len(before)), SpillCache(0))
        for is_tuning in (False, True)
    }
    for each, is_tuning in zip(rows, tuning, strict=True):
        reset = each.reset if part.reads != "reset" or not own_reset else weights.reset(each)
        columns, targets = part.columns(each, reset), part.targets(each)
        samples[is_tuning].add(RowBatch(columns[:, None], targets[:, None], None))
    regression = Regression.of(samples[False].moments, start.weights)
    # The tuning samples measure the states in the end, so they are counted in nowhere.
    fit = best_fit(regression.at, samples[False], samples[True], start, solver_on=lambda _: regression.at)
    if fit.changed:
        part.write_to(weights, fit.weights[0], fit.bias[0])
    return fit.ridge


def _initial(weights: Floats, bias: Floats, dtype: np.dtype[Any]) -> InitialWeights:
    return InitialWeights(weights[None], bias[None], np.ones((1, bias.size)), biased=True, gain=1.0, dtype=dtype)
