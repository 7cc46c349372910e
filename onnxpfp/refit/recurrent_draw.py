"""Draw what a recurrence is fitted on, where its stage is next: steps of both networks, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyArray, AnyFloats
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.recurrent_layers import HIDDEN, LENGTHS, PEEPHOLES, RecurrentLayer, X
from onnxpfp.refit.recurrent_rows import Direction, DirectionRows, Steps, joined, states_before
from onnxpfp.refit.recurrent_runs import RecurrentRun
from onnxpfp.refit.stage_pair import StagePair
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.slices import sliced

__all__ = ["DrawnSteps", "RecurrentPair", "StudentStates"]

RECURRENT = 1 << 17
"""Sets these draws apart from those of the other refits."""
SHARE = 4
"""Rows may take one part in so many of the workspace; the rest of them lies in files."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnSteps:
    """What was drawn from one batch.

    Attributes:
        tuning: Whether it is of tuning samples.
        steps: The drawn steps.
        rows: Their rows in each direction, with the original's states before.
        states: What the original's hidden units are after them, (T, directions * H).
    """

    tuning: bool
    steps: Steps
    rows: tuple[DirectionRows, ...]
    states: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class StudentStates:
    """What the units that stay are in the pruned network, at the steps drawn from one batch.

    Attributes:
        before: Before them, by direction, (T, H').
        after: After them, (T, directions * H').
    """

    before: tuple[NDArray[np.float32], ...]
    after: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentPair:
    """A recurrence of the original and of the pruned network.

    Attributes:
        layer: The recurrence.
        state: The network.
        pair: The two networks; the stage of the recurrence is next.
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
        """Load both."""
        analysis = state.problem.analysis
        positions = range(LENGTHS, PEEPHOLES + 1)
        names = {position: layer.inputs[position] for position in positions}
        whole: dict[int, AnyArray] = {}
        cut: dict[int, AnyArray] = {}
        for position, name in names.items():
            if name in analysis.constants.names:
                axes = analysis.graph.uses.get(name, {}).get((layer.index, position), analysis.graph.axes.get(name, ()))
                whole[position] = analysis.constants.value(name)
                cut[position] = sliced(whole[position], axes, state.held)
        teacher = RecurrentRun.of(layer, pair.teacher, whole, analysis.graph.keep_all())
        student = RecurrentRun.of(layer, pair.student, cut, state.held)
        return cls(layer, state, pair, teacher, student, SpillCache(state.problem.workspace // SHARE))

    @property
    def _batches(self) -> range:
        return range(len(self.pair.teacher.cache.batches))

    def drawn(self) -> list[DrawnSteps] | None:
        """Draw from all batches; None where the two do not run on the same steps, or on numbers that are not finite."""
        found = list(self.pair.helpers.in_order(self._draw, self._batches))
        drawn = [each for each in found if each is not None]
        return drawn if len(drawn) == len(found) else None

    def _draw(self, batch: int) -> DrawnSteps | None:
        given, x = self.teacher.given(X, batch), self.student.given(X, batch)
        assert given is not None
        assert x is not None
        layer, stays, tuning = self.layer, self.state.keep[self.layer.units], batch >= self.pair.fitted
        weights = layer.weights()
        states = self.teacher.states(layer.stored(weights), batch)
        if given.shape[:2] != x.shape[:2] or not all(np.isfinite(array).all() for array in (given, x, states)):
            return None
        rng = np.random.default_rng([self.state.problem.seed, RECURRENT, layer.index, batch])
        lengths = self.teacher.given(LENGTHS, batch)
        steps = Steps.drawn(x.shape[0], x.shape[1], lengths, self._rows_of_batch(tuning=tuning), rng)
        inputs = self._put(x[steps.step, steps.row])
        rows: list[DirectionRows] = []
        for original, before in zip(Direction.of(layer, weights), self._before(steps, states, batch), strict=True):
            of_inputs, of_states, reset = original.terms(given[steps.step, steps.row], before)
            terms = self._put(of_inputs[..., stays]), self._put(of_states[..., stays])
            kept = None if reset is None else self._put(reset[:, stays])
            rows.append(DirectionRows(inputs, self._put(before[:, stays]), *terms, kept))
        return DrawnSteps(tuning, steps, tuple(rows), self._put(_after(steps, states)))

    def _before(
        self, steps: Steps, states: AnyFloats, batch: int, *, of_student: bool = False
    ) -> tuple[AnyFloats, ...]:
        """Return the states before some steps in each direction."""
        first = (self.student if of_student else self.teacher).given(HIDDEN, batch)
        return tuple(
            states_before(steps, states[:, number], None if first is None else first[number], reverse=reverse)
            for number, reverse in enumerate(self.layer.reverse)
        )

    def _put(self, array: AnyFloats) -> NDArray[np.float32]:
        return self.spill.put(np.ascontiguousarray(array, np.float32))

    def _rows_of_batch(self, *, tuning: bool) -> int:
        """Return how many rows are drawn of a batch."""
        problem, fitted = self.state.problem, self.pair.fitted
        samples = len(problem.tuning if tuning else problem.fit)
        batches = len(self._batches) - fitted if tuning else fitted
        return -(-problem.positions_for(self.layer.columns) * samples // max(batches, 1))

    def student_states(self, directions: Sequence[Direction], drawn: Sequence[DrawnSteps]) -> list[StudentStates]:
        """Run the pruned network's recurrence with some weights of what stays."""
        layer, keep = self.layer, self.state.keep
        stored = layer.stored(layer.widened(joined(directions), keep))
        weights = {position: sliced(array, layer.axes[position], keep) for position, array in stored.items()}

        def states_of(batch: int) -> StudentStates:
            steps, states = drawn[batch].steps, self.student.states(weights, batch)
            before = self._before(steps, states, batch, of_student=True)
            return StudentStates(tuple(self._put(each) for each in before), self._put(_after(steps, states)))

        return list(self.pair.helpers.in_order(states_of, self._batches))


def _after(steps: Steps, states: AnyFloats) -> AnyFloats:
    """Return the states after some steps, (T, directions * H)."""
    after = states[steps.step, :, steps.row]
    return after.reshape(len(after), -1)
