"""Ridge least squares towards the weights that are there, with intercept.

With covariances G = cov(u, u) and B = cov(t, u), and W the weights as they are:

    V = W + (B - W G) (G + lambda I)^-1,     bias = mean(t) - V mean(u)

lambda -> inf leaves the weights alone, lambda = 0 is plain least squares. lambda is a share of the mean of diag G: the
one with the smallest error on the tuning samples is taken. Where the bias cannot change, G = mean(u u^T) and
B = mean((t - bias) u^T).

Behind a ReLU an output below zero is as good as any other below zero, where the original's is below zero as well. So
the targets there follow the prediction as far as zero, and the fit is repeated with the same Gram matrix (Zhang et al.,
2016, alternate so, too). But for the ridge, neither step can make the error behind the ReLU larger on what is fitted,
nor can one that goes `FURTHER` than the fit, less than twice as far: the error that it minimises is quadratic.

Fits that are only tried are solved in float32 where the ridge is far above its rounding (`SINGLE_RIDGE`); the last one,
at the ridge that was chosen, in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self

import numpy as np

from onnxpfp.arrays import AnyFloats, Floats
from onnxpfp.refit.cholesky import Factored, LinAlgError
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.rows import SampledRows

__all__ = ["REFIT_RIDGES", "Fit", "GramFactors", "Regression", "Solver", "best_fit", "by_columns", "is_sane", "solve"]

Solver = Callable[[float], tuple[Floats, Floats]]
"""Returns weights (g, o, n) and bias (g, o) at a ridge."""


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
FACTOR_BYTES = 48 << 20
"""Factors are kept up to so many bytes, or those of the two ridges that were tried last."""
LEAST_GAIN = 5e-3
"""The rounds end where one lowers the error by less than this share of it, for each reads all rows again."""
SINGLE_RIDGE = 1e-4
"""Least ridge of the fits that are solved in float32: 1e3 times what rounding moves the mean of diag G by."""
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


@dataclass(slots=True, eq=False)
class GramFactors:
    """The Gram matrices of some columns, and their factors at the ridges that were asked for last.

    Fits of the same columns to other targets share them.

    Attributes:
        moments: Of the columns.
        centred: Whether the Gram matrix is that about the mean.
        tried: Whether fits by them are only tried, so that float32 does where the ridge is large.
    """

    moments: Moments
    centred: bool
    tried: bool = True
    _grams: dict[np.dtype[np.floating], AnyFloats] = field(default_factory=dict[np.dtype[np.floating], AnyFloats])
    _factors: dict[float, Factored] = field(default_factory=dict[float, Factored])
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def dtype(self, ridge: float) -> np.dtype[np.floating]:
        """Return the type of the numbers that fits at a ridge are solved with."""
        # Of many small matrices, as those of depthwise convolutions, it is not the numbers that take the time.
        single = self.tried and ridge >= SINGLE_RIDGE and len(self.moments.uu) == 1
        return np.dtype(np.float32 if single else np.float64)

    def grams(self, dtype: np.dtype[np.floating]) -> AnyFloats:
        """Return G of every convolution group, (g, n, n)."""
        with self._lock:
            if dtype not in self._grams:
                self._grams[dtype] = self.moments.gram(centred=self.centred).astype(dtype, copy=False)
            return self._grams[dtype]

    def at(self, ridge: float) -> Factored:
        """Return the factors of G + lambda I, with lambda a share of the mean of diag G; of I where that is 0.

        Raises:
            LinAlgError: One is not positive definite.
        """
        with self._lock:
            factored = self._factors.pop(ridge, None)
            if factored is None:
                grams = self.grams(self.dtype(ridge))
                factored = _factored(grams.copy(), ridge)
                while self._factors and (len(self._factors) + 1) * grams.nbytes > max(FACTOR_BYTES, 2 * grams.nbytes):
                    del self._factors[next(iter(self._factors))]
            self._factors[ridge] = factored
            return factored


def _factored(grams: AnyFloats, ridge: float) -> Factored:
    """Return the factors of G + lambda I as `GramFactors.at`; G is overwritten."""
    diagonal = np.einsum("gnn->gn", grams)
    scale = diagonal.mean(1) if diagonal.size else np.zeros(len(diagonal))
    diagonal += np.where(scale > 0.0, ridge * scale, 1.0)[:, None]
    return Factored.of(grams)


@dataclass(slots=True, eq=False)
class Regression:
    """Ridge regression of targets on columns, at any ridge; nothing is computed before the first one.

    Attributes:
        moments: Of the samples to fit.
        weights: W, what the ridge pulls towards, (g, o, n).
        bias: The bias where it cannot change, (g, o).
        factors: Of the columns.
    """

    moments: Moments
    weights: Floats
    bias: Floats | None
    factors: GramFactors
    _pulled: dict[np.dtype[np.floating], AnyFloats] = field(default_factory=dict[np.dtype[np.floating], AnyFloats])
    _missing: dict[np.dtype[np.floating], AnyFloats] = field(default_factory=dict[np.dtype[np.floating], AnyFloats])

    @classmethod
    def of(cls, moments: Moments, weights: Floats, bias: Floats | None = None) -> Self:
        """Return the regression on columns that no other one has, of which all fits are solved in float64."""
        return cls(moments, weights, bias, GramFactors(moments, bias is None, tried=False))

    def towards(self, moments: Moments) -> Self:
        """Return the regression of other targets on the same columns."""
        return replace(self, moments=moments, _missing={})

    def at(self, ridge: float) -> tuple[Floats, Floats]:
        """Return weights (g, o, n) and bias (g, o).

        Args:
            ridge: Share of mean diag G that is added to the diagonal, positive.

        Raises:
            LinAlgError: A matrix is not positive definite even so.
        """
        factored = self.factors.at(ridge)
        lacking = self._lacking(self.factors.dtype(ridge))
        solution = self.weights + factored.solved(lacking.swapaxes(1, 2)).swapaxes(1, 2)
        return solution, intercept(self.moments, solution) if self.bias is None else self.bias

    def _lacking(self, dtype: np.dtype[np.floating]) -> AnyFloats:
        """Return B - W G, (g, o, n)."""
        if dtype not in self._missing:
            if dtype not in self._pulled:
                self._pulled[dtype] = np.matmul(self.weights.astype(dtype, copy=False), self.factors.grams(dtype))
            missing = self.moments.cross(self.bias) - self._pulled[dtype]
            self._missing[dtype] = missing.astype(dtype, copy=False)
        return self._missing[dtype]


def solve(
    moments: Moments, weights: Floats, ridge: float, bias: Floats | None = None, *, spent: bool = False
) -> tuple[Floats, Floats]:
    """Fit targets from columns, at one ridge; arguments and results as those of `Regression`.

    Args:
        moments: As there.
        weights: As there.
        ridge: As there.
        bias: As there.
        spent: Whether nothing reads the products of the columns any more, so that their memory may be used.

    Raises:
        LinAlgError: A matrix is not positive definite even with the ridge.
    """
    grams = moments.gram(centred=bias is None, spent=spent)
    lacking = moments.cross(bias) - np.matmul(weights, grams)
    solution = weights + _factored(grams, ridge).solved(lacking.swapaxes(1, 2)).swapaxes(1, 2)
    return solution, intercept(moments, solution) if bias is None else bias


def intercept(moments: Moments, weights: Floats) -> Floats:
    """Return the least-squares bias of weights, (g, o)."""
    return (moments.t - np.matmul(weights, moments.u[..., None])[..., 0]) / moments.count


def by_columns(moments: Moments, start: InitialWeights, factors: GramFactors | None = None) -> Regression:
    """Return the regression on the columns of an op.

    Args:
        moments: Of the samples to fit.
        start: The op as it is.
        factors: Of the same columns, about the mean where the bias can change; None where no other op has them.
    """
    bias = None if start.biased else start.bias
    return Regression(moments, start.weights, bias, factors or GramFactors(moments, start.biased))


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
