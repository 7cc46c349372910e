"""The fit with the smallest error on the tuning samples: its ridge, and its targets behind a ReLU.

Ridges are tried from the most usual one upwards or downwards as long as the error falls. The old weights stay where no
fit is better, and the last solution has the tuning samples among what is fitted.

Behind a ReLU an output below zero is as good as any other below zero, where the original's is below zero as well. So
the targets there follow the prediction as far as zero, and the fit is repeated with the same Gram matrix (Zhang et al.,
2016, alternate so, too). But for the ridge, neither step can make the error behind the ReLU larger on what is fitted,
nor can one that goes `FURTHER` than the fit, less than twice as far: the error that it minimises is quadratic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.refit.cholesky import LinAlgError
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.ridge import Solver, intercept, solve
from onnxpfp.refit.rows import SampledRows

__all__ = ["REFIT_RIDGES", "Fit", "best_fit", "is_sane"]


class Retargeted(Protocol):
    """A regression of other targets on the same columns."""

    def at(self, ridge: float) -> tuple[Floats, Floats]:
        """Return weights (g, o, n) and bias (g, o)."""
        ...


Retarget = Callable[[Moments], Retargeted]
"""Returns the regression of other targets on the same columns."""
SolverOn = Callable[[Moments], Solver]
"""Returns what fits the samples of other moments."""
REFIT_RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the mean of diag G that are tried as lambda in the refit of an op.

They reach from what only keeps the matrix invertible to what all but keeps the old weights; published values (1e-3 in
GRAIL, 1e-2 in OSSCAR) lie between. The tuning samples choose.
"""
FIRST_RIDGE = 4
"""Position of the ridge that is tried first, the published 1e-2, often the best; the search walks from there."""
RELU_ROUNDS = 4
"""Most times that the fit is repeated with targets that follow the prediction where the ReLU cuts both off."""
FURTHER = 1.5
"""A round goes so many times as far as its fit: each leaves a fifth of what there is to gain in place of two fifths."""
LEAST_GAIN = 5e-3
"""The rounds end where one lowers the error by less than this share of it, for each reads all rows again."""
LARGEST_GAIN = 10.0
"""A fit whose weights have a norm so many times the old one is no fit.

Kwon et al. (2022, 'A fast post-training pruning framework for transformers') refuse scales beyond 10 in the same way.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """New weights of one linear op.

    Attributes:
        weights: (g, o, n) float64.
        bias: (g, o) float64.
        ridge: Share of mean diag G; infinity where the weights stayed.
        error: Mean squared error on the tuning samples, summed over the outputs; behind the ReLU where one follows.
        plain: The same of what was there before.
    """

    weights: Floats
    bias: Floats
    ridge: float
    error: float
    plain: float

    @property
    def changed(self) -> bool:
        """Whether it is better than what was there before."""
        return self.error < self.plain


def best_fit(
    solver: Solver,
    fitted: SampledRows,
    tuning: SampledRows,
    start: InitialWeights,
    towards: Retarget | None = None,
    solver_on: SolverOn | None = None,
) -> Fit:
    """Find the fit with the smallest error on the tuning samples; the old weights stay where nothing is better.

    Args:
        solver: Fits at a ridge.
        fitted: Of the samples to fit.
        tuning: Of the tuning samples.
        start: The op as it is.
        towards: Returns what fits other targets; None where targets do not follow the prediction.
        solver_on: Returns what fits other samples; None fits all weights to them.
    """
    plain = tuning.error(start.weights, start.bias, start.sign) if tuning.count and tuning.finite else np.nan
    best = Fit(start.weights, start.bias, np.inf, plain, plain)
    if not fitted.count or not np.isfinite(plain) or not fitted.finite:
        return best
    if start.biased:
        shifted = intercept(fitted.moments, start.weights)
        best = _better(best, start.weights, shifted, np.inf, tuning, start)
    best, step = _search(best, solver, tuning, start), None
    for _ in range(RELU_ROUNDS if fitted.draws and towards else 0):
        assert towards is not None
        followed = fitted.relu_aware_moments(best.weights, best.bias, start.sign)
        ridge = best.ridge if np.isfinite(best.ridge) else REFIT_RIDGES[FIRST_RIDGE]
        fit, step = best, _Step(best, followed, 1.0)
        for factor in (FURTHER, 1.0):
            fit = _attempt(best, partial(step.at, towards(followed).at, factor), ridge, tuning, start)
            if fit is not best:
                step = replace(step, factor=factor)
                break
        gain, best = best.error - fit.error, fit
        if gain < LEAST_GAIN * fit.error:
            break
    return on_all(best, fitted, tuning, start, step, solver_on)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """The last round of a fit.

    Attributes:
        before: The fit that its targets follow.
        followed: Moments of the samples to fit with these targets.
        factor: How many times as far as the fit to them it went.
    """

    before: Fit
    followed: Moments
    factor: float

    def at(self, solver: Solver, factor: float, ridge: float) -> tuple[Floats, Floats]:
        """Return weights and bias so many times as far from those before as the fit at a ridge."""
        weights, bias = solver(ridge)
        before = self.before
        return before.weights + factor * (weights - before.weights), before.bias + factor * (bias - before.bias)


def on_all(
    chosen: Fit,
    fitted: SampledRows,
    tuning: SampledRows,
    start: InitialWeights,
    step: _Step | None = None,
    solver_on: SolverOn | None = None,
) -> Fit:
    """Solve once more, at the ridge that was chosen, with the tuning samples that chose it counted in.

    Args:
        chosen: The fit that was best on the tuning samples; its errors are kept, for nothing is left to measure on.
        fitted: Of the samples to fit.
        tuning: Of the tuning samples.
        start: The op as it is.
        step: The round that led to the fit, or to none that is better; None where targets do not follow.
        solver_on: As in `best_fit`.
    """
    if not np.isfinite(chosen.ridge) or not len(fitted.moments.uu):
        return chosen
    one, other = fitted.moments, tuning.moments
    if step is not None:
        one, other = step.followed, tuning.relu_aware_moments(step.before.weights, step.before.bias, start.sign)
    merged = one.merge(other)
    solver = partial(_solved, merged, start) if solver_on is None else solver_on(merged)
    try:
        weights, bias = solver(chosen.ridge) if step is None else step.at(solver, step.factor, chosen.ridge)
    except LinAlgError:
        return chosen
    weights = start.stored(weights)
    return replace(chosen, weights=weights, bias=bias) if is_sane(weights, bias, start) else chosen


def _solved(moments: Moments, start: InitialWeights, ridge: float) -> tuple[Floats, Floats]:
    """Return the fit of an op from moments that nothing else reads."""
    return solve(moments, start.weights, ridge, None if start.biased else start.bias, spent=True)


def _search(best: Fit, solver: Solver, tuning: SampledRows, start: InitialWeights) -> Fit:
    """Walk to larger ridges as long as the error falls, or else to smaller ones."""
    first = _attempt(best, solver, REFIT_RIDGES[FIRST_RIDGE], tuning, start)
    larger = _walk(first, solver, REFIT_RIDGES[FIRST_RIDGE + 1 :], tuning, start)
    if larger is not first or first is best:
        return larger
    return _walk(first, solver, REFIT_RIDGES[FIRST_RIDGE - 1 :: -1], tuning, start)


def _walk(best: Fit, solver: Solver, ridges: Sequence[float], tuning: SampledRows, start: InitialWeights) -> Fit:
    for ridge in ridges:
        fit = _attempt(best, solver, ridge, tuning, start)
        if fit is best and np.isfinite(best.ridge):
            break
        best = fit
    return best


def _attempt(best: Fit, solver: Solver, ridge: float, tuning: SampledRows, start: InitialWeights) -> Fit:
    """Return the fit at a ridge where it is better than the best so far, else that."""
    try:
        weights, bias = solver(ridge)
    except LinAlgError:
        return best
    return _better(best, start.stored(weights), bias, ridge, tuning, start)


def _better(best: Fit, weights: Floats, bias: Floats, ridge: float, tuning: SampledRows, start: InitialWeights) -> Fit:
    if not is_sane(weights, bias, start):
        return best
    error = tuning.error(weights, bias, start.sign)
    return replace(best, weights=weights, bias=bias, ridge=ridge, error=error) if error < best.error else best


def is_sane(weights: Floats, bias: Floats, start: InitialWeights) -> bool:
    """Tell whether weights did not blow up, and can be stored."""
    largest = LARGEST_GAIN * float(np.linalg.norm(start.weights))
    return float(np.linalg.norm(weights)) <= largest and start.holds(bias)
