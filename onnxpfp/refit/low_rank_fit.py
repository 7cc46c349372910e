"""The refit of an op whose weights are to have a low rank: as two ops, of which the first is fixed before the second.

The weights V that fit best without the limit are factored by what the op reads in the pruned network
(`onnxpfp.low_rank.factor`): of the outputs, what no product of the rank can give is lost. That fixes the first of both
ops, W' = H P with P from columns to what the first op makes of them. H is then fitted as any op is, with the features
P u in the place of the columns u: targets that follow the prediction behind a ReLU, and a ridge by the tuning samples
that pulls towards what the old weights are with these features,

    H0 = W G P^T (P G P^T + lambda I)^-1.

Then the first op is fitted with the second one fixed (`onnxpfp.low_rank.alternate`), and the second once more, if that
is better on the tuning samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.linalg import LinAlgError

from onnxpfp.arrays import Floats
from onnxpfp.low_rank.alternate import fitted_first
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.moments import InputMoments, ridged
from onnxpfp.refit.best_fit import Fit, best_fit
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.ridge import Regression, Solver, intercept
from onnxpfp.refit.rows import SampledRows

__all__ = ["SecondOp", "features_of", "limited_fit", "low_rank_fit"]

FREE_RIDGE = 1e-2
"""Ridge of the fit without the limit, the published one (OSSCAR): its largest directions hardly depend on it."""
ALTERNATIONS = 1
"""Times that both ops are fitted anew, the first with the second one fixed and then the second. One brings ResNet-20
0.2 and 0.6 points at 0.5 and 0.3 of the multiply-adds; more bring nothing."""
FEATURE_RIDGE = 1e-6
"""Ridge of what is nearest to the old weights: as much as sums of float32 products are off."""


@dataclass(frozen=True, slots=True, eq=False)
class SecondOp:
    """The regression of the second of both ops, in terms of the weights of both.

    Attributes:
        features: P, (g, m, n).
        regression: Of H (g, o, m).
    """

    features: Floats
    regression: Regression

    @classmethod
    def of(cls, moments: Moments, columns: Floats, first: Floats, start: InitialWeights) -> Self:
        """Pull towards the nearest to given weights that a first op can give; `columns` is the Gram matrix of these."""
        features = features_of(first, start.weights.shape[2] // first.shape[2])
        inner = _of_features(moments, features)
        bias = None if start.biased else start.bias
        gram = inner.gram(centred=start.biased)
        cross = start.weights @ columns @ features.swapaxes(1, 2)
        nearest: Floats = np.asarray(np.linalg.solve(ridged(gram, FEATURE_RIDGE), cross.swapaxes(1, 2)), np.float64)
        return cls(features, Regression.of(inner, nearest.swapaxes(1, 2), bias))

    def second(self, weights: Floats, places: int) -> Floats:
        """Return H (g, o, r, b) of weights of both ops in one."""
        square = self.features @ self.features.swapaxes(1, 2)
        found: Floats = np.asarray(np.linalg.solve(square, self.features @ weights.swapaxes(1, 2)), np.float64)
        return found.swapaxes(1, 2).reshape(*weights.shape[:2], -1, places)

    @property
    def initial(self) -> Floats:
        """The nearest to the old weights, (g, o, n)."""
        return self.regression.weights @ self.features

    def at(self, ridge: float) -> tuple[Floats, Floats]:
        """Return the weights of both ops in one, (g, o, n), and the bias (g, o), as `Regression.at`."""
        second, bias = self.regression.at(ridge)
        return second @ self.features, bias

    def towards(self, moments: Moments) -> Self:
        """Return the regression of other targets on the same columns."""
        return replace(self, regression=self.regression.towards(_of_features(moments, self.features)))

    def on(self, moments: Moments) -> Self:
        """Return the regression on other columns, towards the same weights."""
        inner = _of_features(moments, self.features)
        return replace(self, regression=Regression.of(inner, self.regression.weights, self.regression.bias))


def features_of(first: Floats, places: int) -> Floats:
    """Return P of a first op (g, r, c a) under so many places, (g, r b, n), channels first."""
    groups, rank, _ = first.shape
    return np.einsum("grx,bd->grbxd", first, np.eye(places)).reshape(groups, rank * places, -1)


def _of_features(moments: Moments, features: Floats) -> Moments:
    """Return the moments of P u of the moments of u."""
    transposed = features.swapaxes(1, 2)
    return Moments(
        (features @ moments.u[..., None])[..., 0],
        features @ moments.uu @ transposed,
        moments.t,
        moments.tt,
        moments.tu @ transposed,
        moments.count,
    )


def limited_fit(
    limit: RankLimit,
    free: Solver,
    moments: InputMoments | None,
    fitted: SampledRows,
    tuning: SampledRows,
    start: InitialWeights,
) -> Fit:
    """Fit an op whose columns are too many for a Gram matrix: what fits best without the rank is brought to it.

    Args:
        limit: As in `low_rank_fit`.
        free: Fits without the rank.
        moments: Of what the op reads; None where nothing of it is known.
        fitted: As there.
        tuning: As there.
        start: As there.
    """

    def at(ridge: float) -> tuple[Floats, Floats]:
        weights = limit.limited(free(ridge)[0], moments)
        return weights, intercept(fitted.moments, weights) if start.biased else start.bias

    kept = replace(start, weights=start.stored(limit.limited(start.weights, moments)))
    return best_fit(at, fitted, tuning, kept)


def low_rank_fit(
    limit: RankLimit, free: Regression, fitted: SampledRows, tuning: SampledRows, start: InitialWeights
) -> Fit:
    """Fit an op whose weights keep to a rank.

    Args:
        limit: The rank.
        free: The regression without it.
        fitted: Of the samples to fit.
        tuning: Of the tuning samples.
        start: The op as it is.

    Returns:
        The fit; where it did not change anything, its weights keep to the rank all the same.
    """
    moments = fitted.moments
    if not moments.count or not fitted.finite:
        return limited_fit(limit, free.at, None, fitted, tuning, start)
    try:
        target = free.at(FREE_RIDGE)[0]
    except LinAlgError:
        target = start.weights
    gram = moments.gram(centred=start.biased)
    try:
        first = limit.first(target, InputMoments(gram, 1))
        second = SecondOp.of(moments, gram, first, start)
    except LinAlgError:
        return limited_fit(limit, free.at, None, fitted, tuning, start)
    kept = replace(start, weights=start.stored(second.initial))
    fit = _fit_second(second, fitted, tuning, kept)
    for _ in range(ALTERNATIONS):
        followed = moments
        if fitted.draws:
            followed = fitted.relu_aware_moments(fit.weights, fit.bias, start.sign)
        places = start.weights.shape[2] // first.shape[2]
        cross = followed.cross(None if start.biased else start.bias)
        try:
            first = fitted_first(first, second.second(fit.weights, places), gram, cross)
            second = SecondOp.of(moments, gram, first, replace(start, weights=fit.weights))
            better = _fit_second(second, fitted, tuning, replace(kept, weights=start.stored(second.initial)))
        except LinAlgError:
            break
        if not better.error < fit.error:
            break
        fit = replace(better, plain=fit.plain)
    return fit


def _fit_second(second: SecondOp, fitted: SampledRows, tuning: SampledRows, kept: InitialWeights) -> Fit:
    return best_fit(second.at, fitted, tuning, kept, second.towards, lambda merged: second.on(merged).at)
