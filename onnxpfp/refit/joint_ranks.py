"""Ranks in a joint refit: along what a producer of low rank may move, and how a consumer of low rank is fitted.

A producer whose weights keep to a rank is W1 = H F, the two ops that will take its place (`low_rank/factor.py`). It
moves along one of them at a time, the other one fixed, so that its weights keep to the rank: with g the gradient of W1,
G the covariance of its columns, A the mean of the blocks of G that stand for one place b, and P u what F makes of the
columns under every b,

    first op:     dF[r, (c, a)] = (H H^T)^-1 sum over o, b of H[o, r, b] g[o, (c, a, b)] A^-1,    dW1 = H dF
    second op:    dH = g P^T (P G P^T)^-1,                                                        dW1 = dH P

as in the alternation without anything between (`low_rank/alternate.py`). A consumer is fitted by least squares of what
its first op makes of the columns, which follows from those weights that fit best without the rank, and then stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import Floats, Ints
from onnxpfp.low_rank.factor import Factors
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.moments import InputMoments, ridged
from onnxpfp.refit.cholesky import Factored
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.joint_machine import Affine, with_channels_first, with_taps_first
from onnxpfp.refit.low_rank_fit import SecondOp, features_of
from onnxpfp.refit.moments import Moments
from onnxpfp.refit.ridge import GramFactors, Regression

__all__ = ["RankedConsumer", "RankedProducer"]

RIDGE_OF_RANKS = 1e-4
"""Share of the mean diagonal that is added to H H^T: filters that the second op hardly reads are not followed far."""


@dataclass(frozen=True, slots=True, eq=False)
class RankedProducer:
    """A producer whose weights keep to a rank.

    Attributes:
        limit: The rank.
        taps: Of its kernel.
    """

    limit: RankLimit
    taps: int

    def along_first(self, weights: Floats, gram: Floats) -> AlongFirst:
        """Return what turns gradients into directions of the first op.

        Args:
            weights: W1 of that rank, taps first, (g, o, n).
            gram: Covariance of its columns with a ridge, taps first, (g, n, n).

        Raises:
            LinAlgError: A matrix is not positive definite.
        """
        first, second = self._factors(weights)
        groups, _, rows = first.shape
        places = second.shape[3]
        blocks = _reordered(gram, self.taps).reshape(groups, rows, places, rows, places)
        inputs = Factored.of(_symmetric(np.einsum("gxbyb->gxy", blocks) / places))
        ranks = Factored.of(_symmetric(ridged(np.einsum("gorb,gosb->grs", second, second), RIDGE_OF_RANKS)))
        return AlongFirst(second, inputs, ranks, self.taps)

    def along_second(self, weights: Floats, gram: Floats) -> AlongSecond:
        """Return what turns gradients into directions of the second op; arguments as those of `along_first`."""
        first, second = self._factors(weights)
        features = with_taps_first(features_of(first, second.shape[3]), self.taps)
        return AlongSecond(features, Factored.of(_symmetric(features @ gram @ features.swapaxes(1, 2))))

    def _factors(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return F (g, r, c a) and H (g, o, r, b)."""
        factors: Factors = self.limit.factors(with_channels_first(weights, self.taps), None)
        first, second = factors.first, factors.second
        return first.reshape(*first.shape[:2], -1), second.reshape(*second.shape[:3], -1)


@dataclass(frozen=True, slots=True, eq=False)
class AlongFirst:
    """Directions of the first of both ops.

    Attributes:
        second: H, (g, o, r, b).
        inputs: A, with its ridge.
        ranks: H H^T.
        taps: Of the kernel.
    """

    second: Floats
    inputs: Factored
    ranks: Factored
    taps: int

    def __call__(self, gradient: Floats) -> Floats:
        """Return the direction of a gradient, both (g, o, n), taps first."""
        groups, outputs, _, places = self.second.shape
        split = with_channels_first(gradient, self.taps).reshape(groups, outputs, -1, places)
        first = np.einsum("gorb,goxb->grx", self.second, split, optimize=True)
        moved = self.inputs.solved(self.ranks.solved(first).swapaxes(1, 2)).swapaxes(1, 2)
        made = np.einsum("gorb,grx->goxb", self.second, moved, optimize=True)
        return with_taps_first(made.reshape(gradient.shape), self.taps)


@dataclass(frozen=True, slots=True, eq=False)
class AlongSecond:
    """Directions of the second of both ops.

    Attributes:
        features: P, taps first, (g, m, n).
        gram: P G P^T.
    """

    features: Floats
    gram: Factored

    def __call__(self, gradient: Floats) -> Floats:
        """Return the direction of a gradient, both (g, o, n), taps first."""
        made = self.gram.solved(self.features @ gradient.swapaxes(1, 2))
        return np.asarray(made.swapaxes(1, 2) @ self.features, np.float64)


@dataclass(slots=True, eq=False)
class RankedConsumer:
    """A consumer whose weights keep to a rank.

    Attributes:
        limit: The rank.
        start: It as it is, channels first.
        taps: Of its kernel.
        first: The first of its ops once it was fitted, (g, r, c a).
    """

    limit: RankLimit
    start: InitialWeights
    taps: int
    first: Floats | None = field(default=None)

    def fit(self, moments: Moments, factors: GramFactors, ridge: float) -> Affine:
        """Fit it to rows.

        Args:
            moments: Of the rows, taps first.
            factors: Of their columns, in float64.
            ridge: Share of the mean of diag G that is added to it.

        Raises:
            LinAlgError: A matrix is not positive definite.
        """
        start, biased = self.start, self.start.biased
        if self.first is None:
            held = with_taps_first(start.weights, self.taps)
            free = Regression(moments, held, None if biased else start.bias, factors).at(ridge)[0]
            gram = _reordered(moments.gram(centred=biased), self.taps)
            self.first = self.limit.first(with_channels_first(free, self.taps), InputMoments(gram, 1))
        rows = _channels_first(moments, self.taps)
        second = SecondOp.of(rows, rows.gram(centred=biased), self.first, start)
        weights, bias = second.at(ridge)
        return Affine(with_taps_first(weights, self.taps), bias)


def _order(columns: int, taps: int) -> Ints:
    """Return the places of columns (c, k) among those (k, c)."""
    return np.arange(columns).reshape(taps, -1).T.ravel()


def _reordered(gram: Floats, taps: int) -> Floats:
    """Bring a matrix of columns (k, c) to channels first."""
    order = _order(gram.shape[1], taps)
    return gram[:, order[:, None], order]


def _channels_first(moments: Moments, taps: int) -> Moments:
    """Bring moments of columns (k, c) to channels first."""
    order = _order(moments.u.shape[1], taps)
    uu = np.asarray(moments.uu, np.float64)
    return Moments(
        moments.u[:, order],
        uu[:, order[:, None], order],
        moments.t,
        moments.tt,
        moments.tu[:, :, order],
        moments.count,
    )


def _symmetric(matrices: Floats) -> Floats:
    return np.asarray((matrices + matrices.swapaxes(1, 2)) / 2, np.float64)
