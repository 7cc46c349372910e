"""Certificates: what held-out samples promise of inputs that nobody has seen. Pure numpy and scipy.special.

All rest on n samples drawn like the inputs of use, independently, and used for nothing that shaped the file. Each holds
with confidence 1 - alpha over the draw of the samples, whatever the network does:

- `agreement_bound`: a share of inputs, from how many of n samples have a property (Clopper, Pearson, "The Use of
  Confidence or Fiducial Limits Illustrated in the Case of the Binomial", Biometrika 1934).
- `tolerance_limit`: a size that a share of inputs stays within, from the order statistics of n sizes (Wilks,
  "Determination of Sample Sizes for Setting Tolerance Limits", Annals of Mathematical Statistics 1941).
- `mean_bound`: a mean over inputs, from n losses in [0, 1] (Waudby-Smith, Ramdas, "Estimating means of bounded random
  variables by betting", JRSS B 2024, arXiv 2010.09686). It is taken, and not the smaller of it and the empirical
  Bernstein bound (Maurer, Pontil, COLT 2009), for of two bounds at alpha the smaller one fails more often than alpha.

Where one of several candidates was chosen with the samples, alpha divided by their number keeps the confidence (union
bound).
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from scipy import special

from onnxpfp.arrays import Floats

__all__ = [
    "agreement_bound",
    "largest_coverage",
    "mean_bound",
    "samples_for_mean",
    "samples_needed",
    "tolerance_limit",
]

MOST_SAMPLES = 1 << 40
"""Where the search for a number of samples ends: shares nearer to 1 than this can tell are not asked for."""
MOST_WITHOUT_LOSS = 1_000_000
"""The same of samples without any loss."""


def agreement_bound(agree: int, samples: int, alpha: float) -> float:
    """Bound from below the share of inputs that have a property.

    Args:
        agree: How many samples have it.
        samples: How many there are, at least 1.
        alpha: Probability that the bound fails.

    Returns:
        The largest share that so many samples refute: the alpha quantile of Beta(agree, samples - agree + 1), 0 where
        none has it.
    """
    if not 0 <= agree <= samples or samples < 1:
        raise ValueError(f"{agree} of {samples} samples is no count")
    return 0.0 if agree == 0 else float(special.betaincinv(agree, samples - agree + 1, alpha))


def samples_needed(share: float, alpha: float, misses: int = 0) -> int:
    """Return the fewest samples with which `agreement_bound` reaches a share although some of them do not agree.

    Args:
        share: The share of inputs to be promised, in (0, 1).
        alpha: Probability that the promise fails.
        misses: Samples without the property.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"no number of samples promises a share of {share}")

    def enough(samples: int) -> bool:
        return agreement_bound(samples - misses, samples, alpha) >= share

    most = max(2 * misses, 1)
    while not enough(most):
        if most > MOST_SAMPLES:
            raise ValueError(f"no number of samples promises a share of {share}")
        most *= 2
    return bisect_left(range(most), True, lo=misses + 1, key=enough)


def largest_coverage(samples: int, alpha: float) -> float:
    """Return the share of inputs that stays within the largest of so many sizes: alpha^(1 / n)."""
    return alpha ** (1.0 / samples)


def tolerance_limit(sizes: Floats, share: float, alpha: float) -> float | None:
    """Bound a size that a share of inputs stays within, by an order statistic.

    Args:
        sizes: One per sample, (n,); infinite where there is no size.
        share: The share of inputs, in (0, 1).
        alpha: Probability that the limit fails.

    Returns:
        The r-th smallest size, with the smallest r such that of n samples r or more lie within the share's quantile
        with a probability of at most alpha; None where n are too few for any.
    """
    n = len(sizes)
    at_most = np.asarray(special.bdtr(np.arange(n), n, share), np.float64)
    place = int(np.searchsorted(at_most, 1.0 - alpha))
    return None if place == n else float(np.sort(sizes)[place])


def mean_bound(losses: Floats, alpha: float) -> float:
    """Bound the mean of a loss in [0, 1] from above, by betting.

    A gambler who bets against "the mean is at least X" has, under it, a capital that is a supermartingale:
    prod (1 - nu_i (l_i - X)) with bets nu_i in [0, 1] that the losses before set. That it ever reaches 1 / alpha has a
    probability of at most alpha (Ville's inequality), so what it refutes is refuted. The capital grows with X, so the
    least X that is refuted is found by halving. The bets are those of the paper's section 4.2 (predictable plug-in).

    Args:
        losses: One per sample, (n,). Bets need an order that says nothing, and files are often sorted by class, so
            an order is drawn, always the same one.
        alpha: Probability that the bound fails.

    Returns:
        The bound, at most 1.
    """
    if len(losses) and not (losses.min() >= 0.0 and losses.max() <= 1.0):
        raise ValueError("losses must lie in [0, 1]")
    losses = np.random.default_rng(0).permutation(losses)
    bets = _bets(losses, alpha)
    goal = -math.log(alpha)

    def refuted(mean: float) -> bool:
        with np.errstate(divide="ignore"):
            # A bet of all on a loss of 1 against a mean of 0 ruins the gambler.
            return bool((np.cumsum(np.log1p(-bets * (losses - mean))) >= goal).any())

    if not refuted(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def samples_for_mean(mean: float, alpha: float) -> int | None:
    """Return the fewest samples without any loss with which `mean_bound` comes down to a mean; None above a million.

    Args:
        mean: The mean to be promised, in (0, 1).
        alpha: Probability that the promise fails.
    """

    def enough(samples: int) -> bool:
        return float(np.log1p(_bets(np.zeros(samples), alpha) * mean).sum()) >= -math.log(alpha)

    if not enough(MOST_WITHOUT_LOSS):
        return None
    return bisect_left(range(MOST_WITHOUT_LOSS), True, lo=1, key=enough)


def _bets(losses: Floats, alpha: float) -> Floats:
    """Return nu_i = min(1, sqrt(2 ln(1 / alpha) / (n s2_(i-1)))), where s2 is the variance of the losses before."""
    n = len(losses)
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(losses)) / (counts + 1)
    variances = (0.25 + np.cumsum(np.square(losses - means))) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]]) if n else variances
    return np.minimum(1.0, np.sqrt(2.0 * math.log(1.0 / alpha) / (max(n, 1) * before)))
