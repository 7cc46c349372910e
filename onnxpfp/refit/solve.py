"""Ridge least squares towards the weights that are there, with intercept.

With covariances G = cov(u, u) and B = cov(t, u), and W the weights as they are (algorithms.md 7.2):

    V = W + (B - W G) (G + lambda I)^-1,     bias = mean(t) - V mean(u)

lambda -> inf leaves the weights alone, lambda = 0 is plain least squares. lambda is a share of the mean of diag G: the
one with the smallest error on samples that the fit has not seen.

Behind a ReLU an output below zero is as good as any other below zero, where the original's is below zero as well. So
the targets there follow the prediction as far as zero, and the fit is repeated with the same Gram matrix (Zhang et al.,
2016, alternate so, too). But for the ridge, neither step can make the error behind the ReLU larger on what is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.refit.cholesky import LinAlgError, solved
from onnxpfp.refit.draws import Draws
from onnxpfp.refit.moments import Moments

__all__ = ["RIDGES", "Fit", "best_fit", "solve"]

Floats = NDArray[np.float64]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Shares of the mean of diag G that are tried as lambda."""
EASINGS = 4
"""Most times that the targets behind a ReLU are eased."""
LARGEST_GAIN = 10.0
"""A fit whose weights have a norm so many times the old one is no fit (algorithms.md 7.4)."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """New weights of one linear op.

    Attributes:
        weights: (g, o, n) float64.
        bias: (g, o) float64.
        ridge: Share of mean diag G; infinity where the weights stayed.
        error: Mean squared error on the held-out samples, summed over the outputs; behind the ReLU where one follows.
        plain: The same of what was there before.
    """

    weights: Floats
    bias: Floats
    ridge: float
    error: float
    plain: float


def solve(moments: Moments, weights: Floats, ridge: float) -> tuple[Floats, Floats]:
    """Fit targets from columns.

    Args:
        moments: Of the samples to fit.
        weights: W, what the ridge pulls towards, (g, o, n).
        ridge: Share of mean diag G that is added to the diagonal, positive.

    Returns:
        Weights (g, o, n) and bias (g, o).

    Raises:
        LinAlgError: A matrix is not positive definite even so.
    """
    found = np.empty_like(weights)
    for group, old in enumerate(weights):
        gram, cross = moments.centred(group)
        scale = float(np.trace(gram)) / max(1, len(gram))
        found[group] = old
        if scale > 0.0:
            missing = cross - old @ gram
            gram[np.diag_indices_from(gram)] += ridge * scale
            found[group] += solved(gram, missing.T).T
    bias = (moments.t - np.einsum("gon,gn->go", found, moments.u)) / moments.count
    return found, bias


def best_fit(fitted: Draws, held: Draws, start: tuple[Floats, Floats], sign: Floats) -> Fit:
    """Find the fit with the smallest held-out error; what was there stays where nothing is better.

    Args:
        fitted: Of the samples to fit.
        held: Of other samples.
        start: Weights (g, o, n) and bias (g, o) as they are.
        sign: As in `Draw.error`, (g, o).
    """
    plain = held.error(*start, sign)
    best = Fit(*start, np.inf, plain, plain)
    for ridge in RIDGES:
        best = _better(best, fitted.moments, held, start, sign, ridge)
    for _ in range(EASINGS if fitted.draws and np.isfinite(best.ridge) else 0):
        eased = fitted.eased(best.weights, best.bias, sign)
        found = _better(best, eased, held, start, sign, best.ridge)
        if found is best:
            break
        best = found
    return best


def _better(best: Fit, moments: Moments, held: Draws, start: tuple[Floats, Floats], sign: Floats, ridge: float) -> Fit:
    """Return the fit at a ridge where it is better than the best so far, else that."""
    try:
        weights, bias = solve(moments, start[0], ridge)
    except LinAlgError:
        return best
    error = held.error(weights, bias, sign)
    sane = float(np.linalg.norm(weights)) <= LARGEST_GAIN * float(np.linalg.norm(start[0]))
    return Fit(weights, bias, ridge, error, best.plain) if sane and error < best.error else best
