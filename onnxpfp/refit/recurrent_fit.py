"""Refit a recurrence: W, R and the biases of the units that stay, towards what the original's gates are made of.

It is fitted twice. First on the states that the original has before each step, as far as they stay (teacher forcing);
then on those that the pruned network has with the weights of the first fit, as it will have in the end. Both are held
against the weights as they were by what is left for the ops that read the states, which are refitted, too: how much of
the original's states, those that go among them, a linear map can tell from the states that are left. That is measured
on the tuning samples, which are in no fit; the best of the three stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Bools, Floats
from onnxpfp.refit.best_fit import Fit, best_fit
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.means import Record
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.recurrent_draw import DrawnSteps, RecurrentPair, StudentStates
from onnxpfp.refit.recurrent_layers import RecurrentLayer, RecurrentWeights
from onnxpfp.refit.recurrent_rows import Direction, DirectionRows, GatePart, joined
from onnxpfp.refit.ridge import Regression
from onnxpfp.refit.rows import RowBatch, SampledRows
from onnxpfp.refit.stage_pair import StagePair
from onnxpfp.refit.state import RefitState

__all__ = ["RecurrentFit", "fit_recurrence"]

Rows = tuple[NDArray[np.float32], NDArray[np.float32], bool]
"""Columns (T, n), targets (T, o), and whether they are of tuning samples."""


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
class _Candidate:
    """Weights of what stays.

    Attributes:
        directions: The weights.
        ridge: The largest ridge that was chosen; infinity where none was.
        states: What the pruned network's states are with them, by batch.
        error: Share of the variance of the original's states that these do not tell, on the tuning samples.
    """

    directions: list[Direction]
    ridge: float
    states: list[StudentStates]
    error: float


def fit_recurrence(
    layer: RecurrentLayer, refit_state: RefitState, pair: StagePair, before: RecurrentWeights
) -> RecurrentFit | None:
    """Refit one recurrence whose stage is next; None where that is not possible on these samples.

    Args:
        layer: The recurrence.
        refit_state: The network.
        pair: Runs it beside the original.
        before: Its weights by now, at full size.
    """
    machine, keep = RecurrentPair.of(layer, refit_state, pair), refit_state.keep
    drawn = machine.drawn()
    if drawn is None:
        return None
    plain = _candidate(machine, drawn, Direction.of(layer, layer.kept(before, keep)), np.inf)
    if not np.isfinite(plain.error):
        return None
    starts = Direction.of(layer, layer.kept(layer.weights(), keep))
    forced = _candidate(machine, drawn, *_fitted(machine, drawn, starts, None))
    free = _candidate(machine, drawn, *_fitted(machine, drawn, starts, forced))
    best = min((plain, forced, free), key=lambda each: each.error)
    record = Record(layer.name, plain.error, best.error, best.ridge, recurrent=True)
    return RecurrentFit(layer.widened(joined(best.directions), keep), best is not plain, record)


def _candidate(
    machine: RecurrentPair, drawn: Sequence[DrawnSteps], directions: list[Direction], ridge: float
) -> _Candidate:
    """Run the pruned network's recurrence with some weights, and measure what its states tell."""
    states, layer = machine.student_states(directions, drawn), machine.layer
    told = ((one.after, each.states, each.tuning) for one, each in zip(states, drawn, strict=True))
    stays: Bools = np.tile(machine.state.keep[layer.units], len(directions))
    fit, spread = _best(told, np.eye(stays.size)[:, stays], np.zeros(stays.size), layer.arrays[1].dtype)
    return _Candidate(directions, ridge, states, fit.error / spread if spread else np.inf)


def _fitted(
    machine: RecurrentPair, drawn: Sequence[DrawnSteps], starts: Sequence[Direction], last: _Candidate | None
) -> tuple[list[Direction], float]:
    """Fit all directions.

    Args:
        machine: The recurrence.
        drawn: What is fitted on.
        starts: The weights that the ridge pulls towards.
        last: Whose states are read; None reads the original's.

    Returns:
        The new weights, and the largest ridge of those that changed.
    """
    directions: list[Direction] = []
    ridges: list[float] = []
    for number, start in enumerate(starts):
        fitted = replace(start, w=start.w.copy(), r=start.r.copy(), b=start.b.copy())
        rows = [each.rows[number] for each in drawn]
        if last is not None:
            read = (states.before[number] for states in last.states)
            rows = [replace(each, states=states) for each, states in zip(rows, read, strict=True)]
        told = [each.tuning for each in drawn]
        dtype = machine.layer.arrays[1].dtype
        ridges += [_fit_part(part, fitted, rows, told, dtype, forced=last is None) for part in start.parts]
        directions.append(fitted)
    return directions, max((ridge for ridge in ridges if np.isfinite(ridge)), default=np.inf)


def _fit_part(
    part: GatePart,
    weights: Direction,
    rows: Sequence[DirectionRows],
    tuning: Sequence[bool],
    dtype: np.dtype[Any],
    *,
    forced: bool,
) -> float:
    """Fit some gates of a direction in place; returns the ridge.

    Args:
        part: The gates.
        weights: The direction, with the reset gate fitted where these gates read it.
        rows: Its rows, by batch.
        tuning: Which batches are of tuning samples.
        dtype: Of the stored weights.
        forced: Whether states are multiplied by the original's reset gate, not by the one of these weights.
    """

    def read() -> Iterable[Rows]:
        for each, is_tuning in zip(rows, tuning, strict=True):
            reset = each.reset if forced or part.reads != "reset" else weights.reset(each)
            yield part.columns(each, reset), part.targets(each), is_tuning

    fit, _ = _best(read(), *part.read_from(weights), dtype)
    if fit.changed:
        part.write_to(weights, fit.weights[0], fit.bias[0])
    return fit.ridge


def _best(rows: Iterable[Rows], weights: Floats, bias: Floats, dtype: np.dtype[Any]) -> tuple[Fit, float]:
    """Fit weights (o, n) and bias (o,) to rows; the tuning samples choose the ridge, and are counted in nowhere else.

    Returns:
        The fit, and the variance of the targets on the tuning samples, summed over the outputs.
    """
    start = InitialWeights(weights[None], bias[None], np.ones((1, bias.size)), biased=True, gain=1.0, dtype=dtype)
    fitted, tuning = (SampledRows(Moments.empty(1, weights.shape[1], bias.size), SpillCache(0)) for _ in range(2))
    for columns, targets, is_tuning in rows:
        (tuning if is_tuning else fitted).add(RowBatch(columns[:, None], targets[:, None], None))
    regression = Regression.of(fitted.moments, start.weights)
    fit = best_fit(regression.at, fitted, tuning, start, solver_on=lambda _: regression.at)
    moments = tuning.moments
    spread = float((moments.tt - np.square(moments.t) / max(moments.count, 1)).sum()) / max(moments.count, 1)
    return fit, max(spread, 0.0)
