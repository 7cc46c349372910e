"""Low rank: a filter bank as the product of two, by its weights alone or by what it reads. Pure numpy.

The schemes are those of Trained Rank Pruning (Xu et al., IJCAI 2020, arXiv 2004.14566), without its training:
channel-wise (Zhang et al., TPAMI 2016) and spatial (Jaderberg et al., BMVC 2014). Both are one formula. A cut s divides
the axes of a kernel into a = k[:s] and b = k[s:]; a bank W (o, c, *k) is the matrix

    M[(c, a), (o, b)] = W[o, c, a, b],    M ~ F H,    F (c a, r), H (r, o b),

so the first bank of filters has r of them with the axes a, without bias, and the second one o with the axes b. With
s = n, all axes, that is a k x k and then a 1 x 1 convolution, the channel scheme; with 0 < s < n it is a spatial one,
such as kh x 1 and then 1 x kw. A matrix product is a bank without axes. The groups of a convolution are factored one by
one, at one rank. Strides, pads and dilations go to the op that has the axis, so W' = F H is what the two ops compute.

By weights alone M = U S V^T, F = U_r sqrt(S_r), H = sqrt(S_r) V_r^T: of all products of rank r the nearest to W
(Eckart-Young).

By what the op reads, with G = E[u u^T] over its columns u (all inputs that an output sees), what counts is the error of
the outputs, E|(W - W') u|^2 = tr((W - W') G (W - W')^T). With A = L L^T the moments of the inputs under the axes a,

    L^T M = U S V^T,    F = M V_r D^-1/2,    H = D^1/2 V_r^T,    D = |columns of M V_r|.

For the channel scheme A = G, and this is the least error of all products of rank r: the sum of the eigenvalues of
W G W^T beyond the r largest (Zhang et al., section 3.1; there with covariances, for a bias is free: b + (W - W') E[u]).
For a spatial scheme the errors under different places b add up as if they had nothing to do with each other, which is
an approximation; so H is fitted once more to the whole G, which is the least error for this F:

    H = H0 + (W - W0) G P^T (P G P^T + lambda I)^-1,    P u = what the first bank makes of u under every b.

The ridge pulls towards H0. At full rank W' = W in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.low_rank.moments import InputMoments, factored, ridged

__all__ = ["Decomposition", "Factors", "decompose", "nearest_factors", "relative_error"]

RIDGE = 1e-6
"""Share of the mean diagonal that is added where H is fitted: as much as sums of float32 products are off."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Two filter banks in the place of one, by convolution group.

    Attributes:
        first: (g, r, c, *a, 1, ...): ones stand for the axes that the second one has.
        second: (g, o, r, 1, ..., *b).
    """

    first: Floats
    second: Floats

    @property
    def rank(self) -> int:
        """How many filters the first one has in every group."""
        return self.first.shape[1]

    def product(self) -> Floats:
        """Return W', the bank that computes what both do, (g, o, c, *k)."""
        kernel = tuple(a * b for a, b in zip(self.first.shape[3:], self.second.shape[3:], strict=True))
        first = self.first.reshape(*self.first.shape[:3], -1)
        second = self.second.reshape(*self.second.shape[:3], -1)
        product = np.einsum("grca,gorb->gocab", first, second, optimize=True)
        return product.reshape(*product.shape[:3], *kernel)


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """What the second bank is fitted by, the features in the order (rank, b), those of the largest rank in front.

    Attributes:
        gram: P G P^T, (g, R b, R b).
        cross: P G W^T, (g, R b, o).
    """

    gram: Floats
    cross: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """A filter bank at every rank of one scheme.

    Attributes:
        kernel: Its kernel.
        cut: How many of the kernel's axes the first bank has.
        errors: Share of the (outputs') energy that is lost at ranks 0 to R, (R + 1,), falling.
        left: F for the largest rank, (g, c a, R).
        right: H0 likewise, (g, R, o b).
        fit: What H is fitted by; None where H0 is the best already.
    """

    kernel: tuple[int, ...]
    cut: int
    errors: Floats
    left: Floats
    right: Floats
    fit: _Fit | None

    def factors(self, rank: int) -> Factors:
        """Return the two banks of a rank, 1 to R."""
        before, behind = self.kernel[: self.cut], self.kernel[self.cut :]
        groups = len(self.left)
        left = np.swapaxes(self.left[:, :, :rank], 1, 2)
        first = left.reshape(groups, rank, -1, *before, *(1 for _ in behind))
        second = np.swapaxes(self._second(rank), 1, 2)
        return Factors(first, second.reshape(groups, -1, rank, *(1 for _ in before), *behind))

    def _second(self, rank: int) -> Floats:
        """Return H of a rank, (g, r, o, b)."""
        taps = math.prod(self.kernel[self.cut :])
        initial = self.right[:, :rank].reshape(len(self.right), rank, -1, taps)
        full = min(self.left.shape[1], self.right.shape[2])
        if self.fit is None or rank == full:
            return initial
        size = rank * taps
        rows = np.swapaxes(initial, 2, 3).reshape(len(initial), size, -1)
        gram, cross = self.fit.gram[:, :size, :size], self.fit.cross[:, :size]
        moved = rows + np.linalg.solve(ridged(gram, RIDGE), cross - gram @ rows)
        return np.swapaxes(moved.reshape(len(rows), rank, taps, -1), 2, 3)


def decompose(weights: Floats, cut: int, moments: InputMoments | None = None, most: int | None = None) -> Decomposition:
    """Factor a filter bank at all ranks.

    Args:
        weights: W by convolution group, (g, o, c, *k); a matrix product (1, o, c).
        cut: How many of the kernel's axes the first bank has.
        moments: Second moments of what it reads; None factors by the weights alone.
        most: The largest rank that is of use; None is full rank.

    Raises:
        LinAlgError: The moments are not positive definite, as where all inputs are zero.
    """
    kernel = weights.shape[3:]
    channels = weights.shape[2]
    taps = math.prod(kernel[:cut])
    matrix = _matricized(weights, cut)
    whitened = matrix if moments is None else moments.whitened(matrix, channels, taps)
    _, singular, basis = np.linalg.svd(whitened, full_matrices=False)
    ranks = singular.shape[1] if most is None else min(most, singular.shape[1])
    right = basis[:, :ranks]
    left = matrix @ np.swapaxes(right, 1, 2)
    scale = np.sqrt(np.sqrt(np.square(left).sum(axis=1)))
    scale[scale == 0.0] = 1.0
    left, right = left / scale[:, None], right * scale[:, :, None]
    fit: _Fit | None = None
    if moments is not None and moments.whole and cut < len(kernel):
        fit = _fit(weights, left, moments)
        errors = _fitted_errors(fit, moments.energy(weights), ranks)
    else:
        squares = np.square(singular).sum(axis=0)
        errors = 1.0 - np.concatenate([[0.0], np.cumsum(squares[:ranks])]) / squares.sum()
    return Decomposition(kernel, cut, np.minimum.accumulate(np.maximum(errors, 0.0)), left, right, fit)


def nearest_factors(weights: Floats, cut: int, rank: int, moments: InputMoments | None = None) -> Factors:
    """Factor a filter bank at one rank, or at full rank where that is less; arguments as those of `decompose`.

    Raises:
        LinAlgError: As there.
    """
    decomposition = decompose(weights, cut, moments, rank)
    return decomposition.factors(min(rank, decomposition.left.shape[2]))


def relative_error(weights: Floats, product: Floats, moments: InputMoments | None = None) -> float:
    """Return the share of the energy that is lost: |W - W'|^2 / |W|^2, or of the outputs E|(W - W') u|^2 / E|W u|^2.

    Args:
        weights: W, (g, o, c, *k).
        product: W' likewise.
        moments: Second moments of what it reads; None compares the weights.
    """
    if moments is None:
        return float(np.square(weights - product).sum() / np.square(weights).sum())
    lost, whole = (moments.energy(each).sum() for each in (weights - product, weights))
    return float(max(lost, 0.0) / whole)


def _matricized(weights: Floats, cut: int) -> Floats:
    """Return M, (g, c a, o b)."""
    groups, outputs, channels, *kernel = weights.shape
    before, behind = math.prod(kernel[:cut]), math.prod(kernel[cut:])
    parts = weights.reshape(groups, outputs, channels, before, behind)
    return parts.transpose(0, 2, 3, 1, 4).reshape(groups, channels * before, outputs * behind)


def _fit(weights: Floats, left: Floats, moments: InputMoments) -> _Fit:
    """Return the moments of what the first bank makes of the columns."""
    groups, outputs = weights.shape[:2]
    rows, ranks = left.shape[1:]
    behind = moments.matrix.shape[1] // rows
    split = moments.matrix.reshape(groups, rows, -1)
    made = (np.swapaxes(left, 1, 2) @ split).reshape(groups, ranks * behind, rows, behind)
    gram = np.einsum("gkmb,gmr->gkrb", made, left, optimize=True).reshape(groups, ranks * behind, -1)
    flat = weights.reshape(groups, outputs, -1)
    cross = made.reshape(groups, ranks * behind, -1) @ np.swapaxes(flat, 1, 2)
    return _Fit((gram + np.swapaxes(gram, 1, 2)) / 2, cross)


def _fitted_errors(fit: _Fit, energy: Floats, ranks: int) -> Floats:
    """Return what is left at every rank where H is the best, by one Cholesky factor: its leading blocks are theirs."""
    lower = factored(fit.gram)
    gains = np.square(np.linalg.solve(lower, fit.cross)).sum(axis=(0, 2))
    gained = np.cumsum(gains.reshape(ranks, -1).sum(axis=1))
    return 1.0 - np.concatenate([[0.0], gained]) / energy.sum()
