"""The first of two ops of low rank, fitted with the second one fixed. Pure numpy.

With W'[o, (c, a, b)] = sum_r H[o, r, b] F[r, c, a] and the moments G = E[u u^T], B = E[t u^T] of columns and targets,
the error E|t - W' u|^2 is quadratic in F. Its gradient is

    g[r, (c, a)] = sum over o, b of H[o, r, b] R[o, (c, a, b)],    R = W' G - B,

and -(H H^T)^-1 g A^-1, with A the mean of the blocks of G that stand for one place b, would lead to the minimum at once
if the places had nothing to do with each other; for the channel scheme, with one place, it does. So it is the direction
of a few steps of conjugate gradients (Polak-Ribiere), each as far as the error falls.
"""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.low_rank.moments import ridged

__all__ = ["fitted_first"]

STEPS = 4
"""Steps of conjugate gradients. With six ResNet-20 is no better."""
RIDGE_OF_INPUTS = 1e-2
"""Share of the mean diagonal that is added to A: directions that hardly vary are not followed far."""
RIDGE_OF_RANKS = 1e-6
"""The same of H H^T: rounding."""


def fitted_first(first: Floats, second: Floats, gram: Floats, cross: Floats) -> Floats:
    """Return the first op, with less error than before.

    Args:
        first: F, (g, r, c a).
        second: H, (g, o, r, b).
        gram: G, (g, n, n), n = c a b.
        cross: B, (g, o, n).
    """
    groups, rows, places = len(first), first.shape[2], second.shape[3]
    blocks = gram.reshape(groups, rows, places, rows, places)
    inputs = ridged(np.einsum("gxbyb->gxy", blocks) / places, RIDGE_OF_INPUTS)
    ranks = ridged(np.einsum("gorb,gosb->grs", second, second), RIDGE_OF_RANKS)
    weights, found = _product(first, second), first
    direction, last, length = np.zeros_like(first), np.zeros_like(first), np.inf
    for _ in range(STEPS):
        residual = weights @ gram - cross
        gradient = np.einsum("gorb,goxb->grx", second, residual.reshape(groups, -1, rows, places))
        steepest = _solved(inputs, _solved(ranks, gradient).swapaxes(1, 2)).swapaxes(1, 2)
        turned = max(0.0, float(((gradient - last) * steepest).sum()) / length)
        direction, last, length = turned * direction - steepest, gradient, float((gradient * steepest).sum())
        change = _product(direction, second)
        curvature = float(((change @ gram) * change).sum())
        if curvature <= 0.0 or length <= 0.0:
            break
        step = -float((residual * change).sum()) / curvature
        weights, found = weights + step * change, found + step * direction
    return found


def _product(first: Floats, second: Floats) -> Floats:
    product = np.einsum("gorb,grx->goxb", second, first, optimize=True)
    return product.reshape(*product.shape[:2], -1)


def _solved(matrices: Floats, right: Floats) -> Floats:
    return np.asarray(np.linalg.solve(matrices, right), np.float64)
