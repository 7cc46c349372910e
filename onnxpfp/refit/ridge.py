"""Ridge least squares towards the weights that are there, with intercept.

With covariances G = cov(u, u) and B = cov(t, u), and W the weights as they are:

    V = W + (B - W G) (G + lambda I)^-1,     bias = mean(t) - V mean(u)

lambda -> inf leaves the weights alone, lambda = 0 is plain least squares. lambda is a share of the mean of diag G: the
one with the smallest error on the tuning samples is taken. Where the bias cannot change, G = mean(u u^T) and
B = mean((t - bias) u^T).

Behind a ReLU an output below zero is as good as any other below zero, where the original's is below zero as well. So
the targets there follow the prediction as far as zero, and the fit is repeated with the same Gram matrix (Zhang et al.,
2016, alternate so, too). But for the ridge, neither step can make the error behind the ReLU larger on what is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.refit.cholesky import LinAlgError, solved
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.rows import SampledRows

__all__ = ["REFIT_RIDGES", "Fit", "Solver", "best_fit", "by_columns", "solve"]

Solver = Callable[[float], tuple[Floats, Floats]]
"""Returns weights (g, o, n) and bias (g, o) at a ridge."""

REFIT_RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the mean of diag G that are tried as lambda in the refit of an op.

They reach from what only keeps the matrix invertible to what all but keeps the old weights; published values (1e-3 in
GRAIL, 1e-2 in OSSCAR) lie between. The tuning samples choose.
"""
FIRST_RIDGE = 3
"""Position of the ridge that is tried first, the published 1e-3; the search walks from there."""
RELU_ROUNDS = 4
"""Most times that the fit is repeated with targets that follow the prediction where the ReLU cuts both off."""
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


def solve(moments: Moments, weights: Floats, ridge: float, bias: Floats | None = None) -> tuple[Floats, Floats]:
    """Fit targets from columns.

    Args:
        moments: Of the samples to fit.
        weights: W, what the ridge pulls towards, (g, o, n).
        ridge: Share of mean diag G that is added to the diagonal, positive.
        bias: The bias where it cannot change, (g, o).

    Returns:
        Weights (g, o, n) and bias (g, o).

    Raises:
        LinAlgError: A matrix is not positive definite even so.
    """
    solution = np.empty_like(weights)
    for group, old in enumerate(weights):
        gram, cross = moments.centred(group) if bias is None else moments.about(group, bias[group])
        scale = float(np.trace(gram)) / max(1, len(gram))
        solution[group] = old
        if scale > 0.0:
            missing = cross - old @ gram
            gram[np.diag_indices_from(gram)] += ridge * scale
            solution[group] += solved(gram, missing.T).T
    return solution, intercept(moments, solution) if bias is None else bias


def intercept(moments: Moments, weights: Floats) -> Floats:
    """Return the least-squares bias of weights, (g, o)."""
    return (moments.t - np.einsum("gon,gn->go", weights, moments.u)) / moments.count


def by_columns(moments: Moments, start: InitialWeights) -> Solver:
    """Return a solver that works on the columns of the op themselves."""
    bias = None if start.biased else start.bias
    return lambda ridge: solve(moments, start.weights, ridge, bias)


def best_fit(solver: Solver, fitted: SampledRows, tuning: SampledRows, start: InitialWeights) -> Fit:
    """Find the fit with the smallest error on the tuning samples; the old weights stay where nothing is better.

    Args:
        solver: Fits at a ridge.
        fitted: Of the samples to fit.
        tuning: Of the tuning samples.
        start: The op as it is.
    """
    plain = tuning.error(start.weights, start.bias, start.sign) if tuning.count and tuning.finite else np.nan
    best = Fit(start.weights, start.bias, np.inf, plain, plain)
    if not fitted.count or not np.isfinite(plain) or not fitted.finite:
        return best
    if start.biased:
        shifted = intercept(fitted.moments, start.weights)
        best = _better(best, start.weights, shifted, np.inf, tuning, start)
    best = _search(best, solver, tuning, start)
    for _ in range(RELU_ROUNDS if fitted.draws else 0):
        relu_aware = by_columns(fitted.relu_aware_moments(best.weights, best.bias, start.sign), start)
        fit = _attempt(
            best, relu_aware, best.ridge if np.isfinite(best.ridge) else REFIT_RIDGES[FIRST_RIDGE], tuning, start
        )
        if fit is best:
            break
        best = fit
    return on_all(best, fitted, tuning, start)


def on_all(chosen: Fit, fitted: SampledRows, tuning: SampledRows, start: InitialWeights) -> Fit:
    """Solve once more, at the ridge that was chosen, with the tuning samples that chose it counted in.

    Args:
        chosen: The fit that was best on the tuning samples; its errors are kept, for nothing is left to measure on.
        fitted: Of the samples to fit.
        tuning: Of the tuning samples.
        start: The op as it is.
    """
    if not np.isfinite(chosen.ridge) or not len(fitted.moments.uu):
        return chosen
    parts = (fitted, tuning)
    if fitted.draws:
        moments = [part.relu_aware_moments(chosen.weights, chosen.bias, start.sign) for part in parts]
    else:
        moments = [part.moments for part in parts]
    try:
        weights, bias = by_columns(moments[0].merge(moments[1]), start)(chosen.ridge)
    except LinAlgError:
        return chosen
    weights = start.stored(weights)
    return replace(chosen, weights=weights, bias=bias) if _is_sane(weights, bias, start) else chosen


def _search(best: Fit, solver: Solver, tuning: SampledRows, start: InitialWeights) -> Fit:
    """Walk to smaller ridges as long as the error falls, or else to larger ones."""
    best = _attempt(best, solver, REFIT_RIDGES[FIRST_RIDGE], tuning, start)
    if np.isfinite(best.ridge):
        lower = _walk(best, solver, REFIT_RIDGES[FIRST_RIDGE - 1 :: -1], tuning, start)
        if lower is not best:
            return lower
    return _walk(best, solver, REFIT_RIDGES[FIRST_RIDGE + 1 :], tuning, start)


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
    if not _is_sane(weights, bias, start):
        return best
    error = tuning.error(weights, bias, start.sign)
    return replace(best, weights=weights, bias=bias, ridge=ridge, error=error) if error < best.error else best


def _is_sane(weights: Floats, bias: Floats, start: InitialWeights) -> bool:
    """Tell whether weights did not blow up, and can be stored."""
    largest = LARGEST_GAIN * float(np.linalg.norm(start.weights))
    return float(np.linalg.norm(weights)) <= largest and start.holds(bias)
