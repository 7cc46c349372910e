"""Ridge least squares towards the weights that are there, with intercept.

With covariances G = cov(u, u) and B = cov(t, u), and W the weights as they are:

    V = W + (B - W G) (G + lambda I)^-1,     bias = mean(t) - V mean(u)

lambda -> inf leaves the weights alone, lambda = 0 is plain least squares. lambda is a share of the mean of diag G;
`best_fit.py` chooses it. Where the bias cannot change, G = mean(u u^T) and B = mean((t - bias) u^T).

Fits that are only tried are solved in float32 where the ridge is far above its rounding (`SINGLE_RIDGE`); the last one,
at the ridge that was chosen, in float64.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from onnxpfp.arrays import AnyFloats, Floats
from onnxpfp.refit.cholesky import Factored
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.moments import Moments

__all__ = ["GramFactors", "Regression", "Solver", "by_columns", "intercept", "solve"]

Solver = Callable[[float], tuple[Floats, Floats]]
"""Returns weights (g, o, n) and bias (g, o) at a ridge."""
FACTOR_BYTES = 48 << 20
"""Factors are kept up to so many bytes, or those of the two ridges that were tried last."""
SINGLE_RIDGE = 1e-4
"""Least ridge of the fits that are solved in float32: 1e3 times what rounding moves the mean of diag G by."""


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
                self._grams[dtype] = np.empty(self.moments.uu.shape, dtype)
                self.moments.write_gram(self._grams[dtype], centred=self.centred)
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
