"""Selection: the channels of a group that stay, and the factors of their weights in the consumers.

Source: Liebenwein et al., "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020
(called PFP here): its deterministic, random and partial (derandomised) variants. With scores s,
S = sum s, p = s / S and n channels to keep:

  deterministic: the n largest scores, weights as they are.
  sampled: channels are drawn from p with replacement; column j of the consumers is multiplied by
    counts_j / (m p_j), which makes the consumers' output unbiased.
  mixed: channels with p_j >= 1 / N stay as they are, N being the draws expected for n; the rest
    are sampled.

The width must be exactly n. The code of Mussay et al., ICLR 2020, draws until n different channels
are hit; its last draw is always a new channel, which biases the factors. Here drawing goes on
until channel n + 1 would be hit, and that last draw is thrown away. The m draws before it contain
exactly n channels, and E[counts_j / m] = p_j exactly: given their counts, the order of the m draws
is uniform, so the share of channel j is the chance that the first draw hit it, which is p_j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Bools, Floats
from onnxpfp.score.coreset import additive_bound
from onnxpfp.score.pfp import K, draws_for, epsilon_deterministic, epsilon_mixed, probabilities, stopped

__all__ = ["ALL_GO", "Epsilons", "Method", "Selection", "Variant", "reweighting", "select"]


Variant = Literal["deterministic", "sampled", "mixed"]
"""Ways to select channels."""

Method = Literal["deterministic", "sampled", "mixed", "auto"]
"""Methods that a user can ask for; auto takes the variant with the smallest bound."""


ALL_GO = "all of its channels go, so nothing was chosen among them"
"""Why there is no bound where a group goes entirely."""


@dataclass(frozen=True, slots=True)
class Epsilons:
    """Bounds of the relative error of every sign part of a layer's sums, per variant, to choose one by.

    They are those of `onnxpfp.score.pfp` at the same number of kept channels. The ones with
    sampling are evaluated before anything is drawn, at the number of draws expected for that
    width; `Selection.bound` is at the number that was drawn. Infinity means that the variant
    cannot be used in this group.

    Attributes:
        deterministic: Bound of the n largest scores.
        sampled: Bound of sampling.
        mixed: Bound of keeping the surest and sampling the rest.
    """

    deterministic: float
    sampled: float
    mixed: float

    def of(self, variant: Variant) -> float:
        """Return the bound of one variant."""
        if variant == "deterministic":
            return self.deterministic
        return self.sampled if variant == "sampled" else self.mixed


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The channels of one group that stay.

    Attributes:
        keep: Which stay, (C,) bool.
        factor: What the consumers' columns are multiplied by, (C,) float64: 1 where they stay as
            they are, 0 where they go.
        variant: The variant that was used.
        requested: The one that was asked for.
        epsilon: Bounds of all variants at this width, by which one was chosen; None where scores are no sensitivities,
            and where several groups' selections are told as one.
        bound: Bound of just these channels and factors, on the relative error of every sign part of the layers' sums,
            or on the error of every sum where scores are additive; None where there is none.
        unbounded: Why there is none; empty where there is one.
        total: S, sum of the scores.
        draws: Draws that were made; 0 if none.
        tie_broken: Whether all bounds were 1 or more, so that something else ranked the channels.
        choice_error: Bound of the relative error of the layers' outputs in the mean square, by held-out samples
            (`onnxpfp.pipeline.choice_bounds`); None where there is none, or not yet.
        no_choice_error: Why there is none; empty where there is one, or not yet.
    """

    keep: Bools
    factor: Floats
    variant: Variant
    requested: Method
    epsilon: Epsilons | None
    bound: float | None
    unbounded: str
    total: float
    draws: int
    tie_broken: bool = False
    choice_error: float | None = None
    no_choice_error: str = ""


def select(
    scores: NDArray[np.floating[Any]],
    n: int,
    *,
    how: Method,
    rng: np.random.Generator,
    n_outputs: int,
    delta: float,
    k: float = K,
    reweightable: bool = True,
    sensitivities: bool = True,
    unbounded: str = "",
    additive: bool = False,
    tie_break: NDArray[np.floating[Any]] | None = None,
) -> Selection:
    """Select n channels of one group.

    A bound of 1 (100 % of an output) is no bound. Where "auto" finds none below 1, every set of n channels has
    the same bound by the deterministic variant, and `tie_break` ranks them.

    Channels that can never be drawn (p_j up to 1.2e-7) stay only if n asks for more than those
    that can. Wherever n leaves nothing to chance, every variant is the deterministic one, with
    factors of 1. Ties go to the lower index. If all scores are 0, p is uniform.

    Args:
        scores: Finite and not negative, (C,).
        n: Channels to keep, 0 <= n <= C.
        how: Variant, or "auto" for the one with the smallest bound.
        rng: Source of the draws; untouched by the deterministic variant.
        n_outputs: Outputs times patches times sign quadrants of the consumers, for the bounds.
        delta: Failure probability over the draws.
        k: The constant K of the bounds.
        reweightable: Whether the consumers' columns may be scaled.
        sensitivities: Whether the scores are sensitivities; of others no bound follows here, and "auto" is
            deterministic.
        unbounded: Why no bound follows from the scores; empty where one does.
        additive: Whether the scores, and so the bounds, are in the units of an output; else they are shares.
        tie_break: What ranks the channels where "auto" finds no bound below 1, (C,).

    Raises:
        ValueError: If n is out of range, a score is not finite or negative, or a group that is
            not reweightable is to be sampled.
    """
    s = scores.astype(np.float64)
    if not 0 <= n <= s.shape[0]:
        raise ValueError(f"cannot keep {n} of {s.shape[0]} channels")
    if n == 0:
        nothing = np.zeros(s.shape, np.bool_)
        factor = np.zeros(s.shape)
        return Selection(nothing, factor, "deterministic", how, None, None, ALL_GO, float(s.sum()), 0)
    if not reweightable and how in ("sampled", "mixed"):
        raise ValueError(f"columns cannot be scaled in this group, which {how!r} needs")
    plans: dict[Variant, _Plan] = {
        "deterministic": _Plan(_largest(s, n), np.zeros_like(s), 0, 0),
        "sampled": _plan(s, n, np.zeros(s.shape, dtype=np.bool_)),
        "mixed": _plan(s, n, _sure(s, n)),
    }
    worst_case = sensitivities and not unbounded

    def bound_of(plan: _Plan, draws: int) -> float:
        return _bound(plan, draws, s, n_outputs, delta, None if additive else k)

    epsilon = _epsilons(plans, bound_of, reweightable=reweightable) if worst_case else None
    variant: Variant = how if how != "auto" else "deterministic" if epsilon is None else _best(epsilon)
    plan, broken = plans[variant], False
    if how == "auto" and tie_break is not None and n < s.shape[0] and epsilon is not None:
        broken = epsilon.of(variant) >= 1.0
    if broken and tie_break is not None:
        variant, plan = "deterministic", _Plan(_largest(tie_break.astype(np.float64), n), np.zeros_like(s), 0, 0)
    factor, draws = _carry_out(plan, rng)
    bound = bound_of(plan, draws) if worst_case else None
    return Selection(factor > 0.0, factor, variant, how, epsilon, bound, unbounded, float(s.sum()), draws, broken)


def _epsilons(
    plans: Mapping[Variant, _Plan], bound_of: Callable[[_Plan, int], float], *, reweightable: bool
) -> Epsilons:
    """Bound what every variant is expected to do."""
    bounds = {name: bound_of(plan, plan.draws) for name, plan in plans.items()}
    if not reweightable:
        bounds["sampled"] = bounds["mixed"] = np.inf
    return Epsilons(bounds["deterministic"], bounds["sampled"], bounds["mixed"])


def _best(epsilon: Epsilons) -> Variant:
    """Return the variant with the smallest bound; the plainer one wins a tie."""
    order: tuple[Variant, ...] = ("deterministic", "mixed", "sampled")
    return min(order, key=epsilon.of)


def _largest(s: Floats, n: int) -> Bools:
    """Mark the n largest; of equal ones the lower index, (C,) bool."""
    marked = np.zeros(s.shape, dtype=np.bool_)
    marked[np.argsort(-s, kind="stable")[:n]] = True
    return marked


def _sure(s: Floats, n: int) -> Bools:
    """Mark what the mixed variant keeps surely: p_j >= 1 / N, at most n (PFP, partial variant)."""
    p = probabilities(s)
    certain = int(np.count_nonzero(p * draws_for(p, n) >= 1.0 - 1e-12))
    return _largest(s, min(certain, n))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """The channels to keep for sure, and the draws among the others.

    Attributes:
        sure: Channels that stay as they are, (C,) bool.
        p: Probabilities of the others, (C,); 0 where sure.
        width: How many different channels to draw.
        draws: Draws expected for that; 0 if nothing is left to chance.
    """

    sure: Bools
    p: Floats
    width: int
    draws: int


def _plan(s: Floats, n: int, sure: Bools) -> _Plan:
    p = np.zeros_like(s)
    if not sure.all():
        p[~sure] = probabilities(s[~sure])
    width = n - int(np.count_nonzero(sure))
    # All that can be drawn is wanted (or nothing is): keep it, and fill up with the largest.
    if width == 0 or width >= np.count_nonzero(p):
        return _Plan(_largest(s, n), np.zeros_like(s), 0, 0)
    return _Plan(sure, p, width, draws_for(p, width))


def _bound(plan: _Plan, draws: int, s: Floats, n_outputs: int, delta: float, k: float | None) -> float:
    """Bound what a plan does with so many draws: in the units of s where there is no constant k of shares."""
    if k is None:
        return additive_bound(s, plan.sure, plan.p > 0.0, draws, n_outputs, stopped(delta, draws) if draws else delta)
    if plan.draws == 0:
        return epsilon_deterministic(s, plan.sure, k)
    # Channels that are never drawn are simply dropped, which adds their deterministic bound.
    drawn = plan.p > 0.0
    sampled = epsilon_mixed(s, ~drawn, draws, n_outputs, stopped(delta, draws), k)
    return sampled + k * float(s[~drawn & ~plan.sure].sum())


def _carry_out(plan: _Plan, rng: np.random.Generator) -> tuple[Floats, int]:
    """Return the factors (C,) and the number of draws made."""
    factor = plan.sure.astype(np.float64)
    if plan.draws == 0:
        return factor, 0
    counts = _draw(plan.p, plan.width, rng)
    draws = int(counts.sum())
    return factor + reweighting(counts, plan.p), draws


def reweighting(counts: NDArray[np.int64], p: Floats) -> Floats:
    """Return counts_j / (m p_j), (C,): what columns drawn m times in all are multiplied by; 0 for those never drawn.

    Args:
        counts: How often each channel was drawn, (C,).
        p: The probabilities, (C,).
    """
    return np.divide(counts, counts.sum() * p, out=np.zeros(p.shape), where=counts > 0)


def _draw(p: Floats, width: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw from p until channel width + 1 would be hit; return the counts before that, (C,).

    Draws at the times of a Poisson process are one independent Poisson process of rate p_j per
    channel. So the first hit of j is at an exponential time T_j, the end is the (width + 1)-th
    smallest of them, and j is hit Poisson(p_j (end - T_j)) more times until then. This has exactly
    the law of drawing one by one, at the cost of one pass, however small the p_j.

    Args:
        p: Probabilities, more than `width` of them positive, (C,).
        width: Different channels wanted.
        rng: Source of randomness.
    """
    alive = np.flatnonzero(p)
    first = rng.standard_exponential(alive.shape[0]) / p[alive]
    order = np.argsort(first, kind="stable")
    end, winners = first[order[width]], order[:width]
    counts = np.zeros(p.shape, dtype=np.int64)
    lucky = alive[winners]
    counts[lucky] = 1 + rng.poisson(p[lucky] * (end - first[winners]))
    return counts
