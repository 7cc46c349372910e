"""Provable filter pruning: folding sensitivities into channels, error bounds, draws.

Source: Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020,
called PFP below.

The sensitivity of channel j at one consumer is the largest share that j ever takes of a
sign-split pre-activation, over the calibration points x, outputs i and patches p:

    s_j = max_{x,i,p,signs} g_j(x),     g_j = w_ij a_j(x) / sum_k w_ik a_k(x)     in [0, 1]

With S = sum_j s_j and p_j = s_j / S, a layer is approximated by keeping some channels, or by
drawing m of them from p with replacement and weighting each by counts_j / (m p_j).

All bounds below rest on the assumption of the paper: an unseen point has g_j(x) <= K s_j for all
channels, but for a probability that falls exponentially with the number of calibration points (`sample_failure`).
K is an assumption, not a measurement. Every bound is per layer, for the inputs that the layer has in the
original, and relative to each sign part of a sum, z = sum_k w_ik a_k(x) over the products of one sign of weights
and one of inputs. Where these parts cancel, the relative error of the whole sum is up to

    sum_k |w_ik a_k(x)| / |sum_k w_ik a_k(x)|

times as large. Nothing is said about the network's output.

That is proven for shares of whole kernel windows (`--kernel sum`). Shares of single kernel entries (`--kernel max`)
are at least a channel's share over the number of its entries under one output, so there that number goes into K.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats, Ids
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = [
    "K_TAIL",
    "K",
    "Pfp",
    "Sipp",
    "draws_for",
    "draws_to_reach",
    "epsilon_deterministic",
    "epsilon_mixed",
    "epsilon_sampled",
    "log_miss",
    "probabilities",
    "sample_failure",
    "sample_size",
    "stopped",
    "upper_envelope",
]


_TINY_SHARE = 2.0**-23
"""Probabilities up to this are zero, as in the authors' code; it also bounds the draws by 1e9."""

_SLACK = 1e-9
"""Taken off before rounding up: one draw hits 1 channel, not ceil(1 + 2e-16) = 2."""

K = 3
"""The constant K of the tail assumption, as in the authors' code."""

K_TAIL = 3
"""The constant K' of the tail assumption, C of the size of S in the paper's experiments."""


def sample_size(outputs: Sequence[int] | NDArray[np.int64], delta: float) -> int:
    """Return how many calibration points the sensitivities need.

    |S| = ceil(C ln(8 eta eta_star / delta)), where eta is the sum and eta_star the maximum of the
    consumers' output counts (PFP, size of S).

    Args:
        outputs: Outputs of each consumer for one input: channels times spatial positions.
        delta: Failure probability, e.g. 1e-16.

    Raises:
        ValueError: If there are no outputs, or delta is out of range.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"need 0 < delta < 1, got delta={delta}")
    return math.ceil(K_TAIL * (_log_sums(outputs) - math.log(delta)))


def sample_failure(outputs: Sequence[int] | NDArray[np.int64], samples: int) -> float:
    """Bound the probability that so many calibration points are not enough for the assumption that the bounds rest on.

    delta = 8 eta eta_star exp(-n / K'), which `sample_size` solves for n. It rests on the paper's assumption on the
    tails of the shares, with K' as assumed there.

    Args:
        outputs: As in `sample_size`.
        samples: n, the calibration points, drawn like the inputs of use.

    Returns:
        The bound; 1 or more promises nothing. What is too small for a float is the smallest float.
    """
    exponent = _log_sums(outputs) - samples / K_TAIL
    smallest, largest = math.log(sys.float_info.min), math.log(sys.float_info.max)
    return math.exp(min(max(exponent, smallest), largest))


def _log_sums(outputs: Sequence[int] | NDArray[np.int64]) -> float:
    """Return ln(8 eta eta_star): a sum of logarithms, for the product may leave the range of float64."""
    counts = [int(n) for n in outputs]
    if not counts or min(counts) < 1:
        raise ValueError(f"outputs must be positive counts, got {counts}")
    return math.log(8.0) + math.log(sum(counts)) + math.log(max(counts))


def upper_envelope(parts: Iterable[tuple[Ids, NDArray[np.floating[Any]]]], n_channels: int) -> Floats:
    """Take the maximum over all consumers of each channel.

    The proofs only need s_j to be at least the true share, so the maximum serves every consumer of
    a coupled group at once.

    Args:
        parts: Channel ids (n,) and sensitivities (n,) of each consumer.
        n_channels: Highest channel id.

    Returns:
        (n_channels + 1,) float64, indexed by channel id; index 0 is unused and 0.
    """
    envelope = np.zeros(n_channels + 1, dtype=np.float64)
    for ids, s in parts:
        np.maximum.at(envelope, ids, s.astype(np.float64))
    envelope[0] = 0.0
    return envelope


def epsilon_deterministic(s: Floats, keep: NDArray[np.bool_], k: float = K) -> float:
    """Bound the relative error of every sign part of a sum, where some channels are kept as they are.

    |z - zhat| <= K * sum of the dropped s * z, and never more than z, for every output, patch and sign
    at once (follows from the definition of s; no probability over draws is involved).

    Args:
        s: Sensitivities, (C,).
        keep: Which channels stay, (C,) bool.
        k: The constant K of the tail assumption.
    """
    return min(1.0, k * float(np.sum(s[~keep], dtype=np.float64)))


def epsilon_sampled(total: float, draws: float, n_outputs: int, delta: float, k: float = K) -> float:
    """Bound the relative error of every sign part of a sum by importance sampling: Bernstein's inequality, inverted.

    With L = ln(2 N_out / delta): eps = K S L / (3m) + sqrt((K S L / (3m))^2 + 2 K S L / m).
    It comes from terms of at most K S z / m and a variance of at most K S z^2 / m (the form of
    PFP, theorem on sampled filters, with the constants worked out). It holds for a fixed number of
    draws and one fixed unseen input with probability 1 - delta; `stopped` makes it one for any number.

    Args:
        total: S, sum of the sensitivities that are sampled from.
        draws: m, number of draws.
        n_outputs: N_out: outputs times patches times sign quadrants (4, or 2 for inputs >= 0).
        delta: Failure probability over the draws.
        k: The constant K of the tail assumption.

    Returns:
        The bound; 0 if nothing is left to sample, infinity if something is but is never drawn.
    """
    if total <= 0.0:
        return 0.0
    if draws <= 0:
        return math.inf
    per_draw = k * total * (math.log(2.0 * n_outputs) - math.log(delta)) / draws
    return per_draw / 3.0 + math.sqrt((per_draw / 3.0) ** 2 + 2.0 * per_draw)


def epsilon_mixed(
    s: Floats,
    sure: NDArray[np.bool_],
    draws: float,
    n_outputs: int,
    delta: float,
    k: float = K,
) -> float:
    """Bound the relative error of keeping some channels surely and sampling from the others.

    The same as `epsilon_sampled` with S over the channels that are not surely kept.

    Args:
        s: Sensitivities, (C,).
        sure: Channels that are kept as they are, (C,) bool.
        draws: Number of draws on the others.
        n_outputs: As in `epsilon_sampled`.
        delta: As in `epsilon_sampled`.
        k: As in `epsilon_sampled`.
    """
    rest = float(np.sum(s[~sure], dtype=np.float64))
    return epsilon_sampled(rest, draws, n_outputs, delta, k)


def stopped(delta: float, draws: float) -> float:
    """Return the failure probability to put into a bound whose number of draws m depends on what was drawn.

    delta * 6 / (pi m)^2 adds up to delta over m = 1, 2, ..., so the bounds of all m hold at once with probability
    1 - delta, and with them that of the m at which drawing stopped.
    """
    return delta * 6.0 / (math.pi * max(draws, 1.0)) ** 2


def probabilities(scores: NDArray[np.floating[Any]]) -> Floats:
    """Turn scores into sampling probabilities p_j = s_j / S.

    Entries up to 1.2e-7 become exactly 0, as in the authors' code. If no score is positive,
    nothing tells the channels apart and p is uniform (the authors' code divides 0 by 0 there).

    Args:
        scores: Finite and not negative, (C,) with C >= 1.

    Returns:
        Probabilities that sum to 1, (C,) float64.

    Raises:
        ValueError: If a score is negative, NaN or infinite.
    """
    s = scores.astype(np.float64)
    if not np.all(np.isfinite(s)) or np.any(s < 0.0):
        raise ValueError("scores must be finite and not negative")
    peak = s.max()
    if peak == 0.0:
        return np.full(s.shape, 1.0 / s.shape[0])
    s /= peak  # first, so that neither huge nor subnormal scores spoil the sum
    p = s / s.sum()
    p[p <= _TINY_SHARE] = 0.0
    return p / p.sum()


def log_miss(p: Floats) -> Floats:
    """Return ln(1 - p_j), the log-probability that one draw misses channel j; finite for p = 1."""
    return np.log1p(-np.minimum(p, 1.0 - 2.0**-53))


def draws_to_reach(miss: Floats, n: int) -> int:
    """Return the fewest draws m whose expected number of distinct channels, sum_j 1 - (1 - p_j)^m rounded up, is n.

    Args:
        miss: `log_miss` of the probabilities, (C,).
        n: At most the number of channels of positive probability.
    """
    if n <= 1:
        return n

    def enough(m: int) -> bool:
        return float(-np.expm1(m * miss).sum()) > n - 1 + _SLACK

    most = n
    while not enough(most):
        most *= 2
    return bisect_left(range(most), True, lo=n, key=enough)  # n - 1 draws hit at most n - 1 channels


def draws_for(p: Floats, n: int) -> int:
    """Return the number of draws with which sampling is expected to keep n channels.

    As in the authors' code (PFPNetRand): the smallest m whose expected distinct count, rounded up,
    reaches n; n is capped one below the number of channels that can be drawn, as the last one
    would take very many draws; n <= 1 needs n draws.

    Args:
        p: Probabilities, (C,).
        n: Distinct channels wanted.
    """
    if n <= 1:
        return n
    return draws_to_reach(log_miss(p), max(1, min(n, int(np.count_nonzero(p)) - 1)))


class Pfp(Criterion):
    """PFP's sensitivities, the largest over the consumers; by weights alone, where there are no data (coreset)."""

    name, title = "pfp", "Provable Filter Pruning, sensitivities measured on the data"
    needs = frozenset({"sensitivity"})
    comparable = True
    optional_data = True

    def score(self, group: GroupData) -> Floats:
        """Return the sensitivities."""
        assert group.sensitivity is not None
        return group.sensitivity


class Sipp(Pfp):
    """The largest sensitivity of the single weights that read a channel (SiPP): PFP's over single kernel entries.

    Both are the largest share of one product of a weight and an input in a sum, over the consumers, outputs, entries of
    the kernel, positions and samples. So they are measured as such (`onnxpfp.options.RunOptions.entries`), for
    channels.
    """

    name, title = "sipp", "largest sensitivity of the single weights that read a channel (SiPP), measured on the data"
    optional_data = False
