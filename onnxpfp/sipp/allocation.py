"""How many draws every part of every layer gets: a convex program, solved by bisection (SiPP, sampled).

    minimise  sum over parts of w eps(m)    with  sum of m <= B,  0 <= m <= count        w = 1 / outputs of the layer

eps is convex and decreasing, and the program separable, so that at the optimum -w eps'(m) is the same number lambda for
all parts that are not at their count. With m = A x and a = 1 / 3x,

    -w eps'(m) = (w / A) h(x),      h(x) = (1 / 3x^2) (1 + (a + 3) / sqrt(a^2 + 6 a))

h is a power of x with an exponent between -2 and -1.5, nearly: Newton's method in logarithms finds x for all parts at
once, and the sum of m falls in lambda, which is bisected. (The authors hand the program to a generic solver.)
"""

from __future__ import annotations

import math

import numpy as np

from onnxpfp.arrays import Floats, Ints
from onnxpfp.score.pfp import K
from onnxpfp.sipp.layer import Parts

__all__ = ["allocate_draws", "whole_draws"]

NEWTON_STEPS = 6
"""Enough for all digits: the logarithm of h is nearly a straight line."""
BISECTIONS = 60
"""They leave 1e-15 of the range."""
_RANGE = 500.0
"""Logarithms of lambda beyond what any part has."""


def allocate_draws(parts: Parts, budget: float, k: float = K) -> Floats:
    """Divide a budget among parts, (parts,); 0 of parts without a sensitivity. The sum never is above the budget.

    Args:
        parts: The parts.
        budget: B.
        k: The constant K of the bounds.
    """
    live = parts.live
    counts = np.where(live, parts.counts, 0).astype(np.float64)
    if budget >= counts.sum():
        return counts
    draws = np.zeros(len(counts))
    if budget <= 0 or not live.any():
        return draws
    scale = (k * parts.totals * parts.log_terms)[live]
    slopes = np.log(scale / parts.weights[live])

    def at(log_lambda: float) -> Floats:
        return np.minimum(scale * np.exp(_inverse(log_lambda + slopes)), counts[live])

    # More lambda, fewer draws: the upper end always is within the budget.
    low, high = -_RANGE, _RANGE
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).sum() <= budget else (middle, high)
    draws[live] = at(high)
    return draws


def _inverse(targets: Floats) -> Floats:
    """Return ln x with ln h(x) = targets."""
    # Between what the two powers give: h = 1 / 3x^2 times 2 for small x, and times 3 / sqrt(2 / x) for large.
    small, large = (math.log(2 / 3) - targets) / 2, (-math.log(2) / 2 - targets) / 1.5
    y = np.where(targets > 0, small, large)
    for _ in range(NEWTON_STEPS):
        a = np.exp(-y) / 3
        root = np.sqrt(a * a + 6 * a)
        factor = 1 + (a + 3) / root
        slope = -2 + 9 * (a / root) / root / root / factor
        y = y - (np.log(factor / 3) - 2 * y - targets) / slope
    return y


def whole_draws(draws: Floats, counts: Ints) -> Ints:
    """Round draws to whole numbers of the same sum, down to a whole one: those with the largest rest are rounded up.

    Args:
        draws: Of every part, (parts,).
        counts: The most of every part, (parts,).
    """
    whole = np.floor(draws + 1e-9).astype(np.int64)
    spare = int(np.floor(draws.sum() + 1e-6)) - int(whole.sum())
    rest = np.where(whole < counts, draws - whole, -1.0)
    order = np.argsort(-rest, kind="stable")[: max(0, spare)]
    whole[order[rest[order] > 0]] += 1
    return whole
