"""What chance allows: how often bounds that are exact would fail in the splits that are drawn.

A split does not measure the confidence itself. What is left of the pool is the truth, which is a sample too: the means
of n held-out images and of the m others differ with the variance S^2 (1/n + 1/m), and an exact bound leaves room for
S^2 / n. So at n = m a bound at 0.05 fails in about 0.12 of the splits, at n = 128 of 5,000 in about 0.05. Drawn with
replacement, with the whole pool as the truth, it fails in at most alpha. The formulas are scipy's, none is onnxpfp's.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from benchmarks.promises.schemes import Scheme

__all__ = ["agreement_failures", "least_within", "likely", "limit_failures", "limit_place", "mean_failures"]

LIKELY = 0.99
"""Probability of the range of failures that chance allows."""
ROUNDING = 1e-9
"""Of a share times a number of images."""


def agreement_failures(scheme: Scheme, pool: int, agreeing: int, alpha: float) -> float:
    """Return how often a Clopper-Pearson bound exceeds the truth, where so many images of the pool agree."""
    kept = np.arange(scheme.held_out + 1)
    bounds = np.where(kept > 0, stats.beta.ppf(alpha, np.maximum(kept, 1), scheme.held_out - kept + 1), 0.0)
    if scheme.from_pool:
        return float(stats.binom.pmf(kept, scheme.held_out, agreeing / pool)[bounds > agreeing / pool].sum())
    truths = (agreeing - kept) / (pool - scheme.held_out)
    return float(stats.hypergeom.pmf(kept, pool, agreeing, scheme.held_out)[bounds > truths].sum())


def limit_place(held_out: int, share: float, alpha: float) -> int | None:
    """Return which of the sorted sizes covers a share of inputs (Wilks), counted from 1; None where none does."""
    place = int(stats.binom.ppf(1 - alpha, held_out, share)) + 1
    return place if place <= held_out else None


def limit_failures(scheme: Scheme, pool: int, share: float, place: int) -> float:
    """Return how often less than a share of the truth is within the so-manieth smallest of the held-out sizes.

    That is so where the held-out images among the smallest of the pool are as many as that place, at the point where
    the others among them are one less than the share asks for. No distribution is assumed, but that no two are equal.
    """
    if scheme.from_pool:
        return float(stats.binom.sf(place - 1, scheme.held_out, (least_within(share, pool) - 1) / pool))
    rest = pool - scheme.held_out
    return float(stats.hypergeom.sf(place - 1, pool, place + least_within(share, rest) - 1, scheme.held_out))


def least_within(share: float, count: int) -> int:
    """Return how many of so many images are at least such a share."""
    return math.ceil(share * count - ROUNDING)


def mean_failures(scheme: Scheme, pool: int, alpha: float) -> float:
    """Return how often a bound of a mean fails that leaves room for exactly the normal quantile."""
    if scheme.from_pool:
        return alpha
    return float(stats.norm.cdf(stats.norm.ppf(alpha) / math.sqrt(1 + scheme.held_out / (pool - scheme.held_out))))


def likely(trials: int, rate: float) -> tuple[int, int]:
    """Return the range in which the number of failures lies, for trials that each fail at a rate."""
    low, high = stats.binom.interval(LIKELY, trials, min(max(rate, 0.0), 1.0))
    return int(low), int(high)
