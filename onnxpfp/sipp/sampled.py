"""SiPP, sampled: every part is drawn from by its sensitivities, and its weights are scaled so that sums stay right.

N weights are drawn from a part with replacement, with p = s / S, and a weight that was hit `count` times is multiplied
by count / (N p). N is fixed before the draw: a rule that stops at a number of distinct weights would bias the estimate.
It is the largest number that is expected to hit as many distinct weights as the part may keep, so how many it hits
varies. So no more is divided than the budget without four standard deviations of that; should a draw hit more than the
budget even so, all are made anew. Parts that may keep all their weights are not drawn: they would only get a variance.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.arrays import Bools, Floats, Ints
from onnxpfp.score.pfp import log_miss, probabilities
from onnxpfp.sipp.allocation import allocate_draws, whole_draws
from onnxpfp.sipp.bounds import bound_of_draws, bound_of_dropped
from onnxpfp.sipp.deterministic import largest
from onnxpfp.sipp.layer import LayerChoice, LayerWeights, Parts

__all__ = ["DrawAllocation", "allocated", "drawn_choices", "draws_within", "select_sampled"]

SIGMAS = 4.0
ATTEMPTS = 100
_MOST_MARGIN = 0.5
"""Share of the budget beyond which a margin is left out."""
_MOST_DRAWS = 1 << 40
"""Where weights are so improbable that more draws would not hit them either."""
_SLACK = 1e-9
"""What rounding may add to an expected number."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawAllocation:
    """How many weights every part may keep.

    Attributes:
        draws: m, (parts,); of parts that are drawn that many are expected.
        sampled: Which parts are drawn, (parts,).
        few: Whether there are too few weights for a margin: then as many draws are made, which never hit more.
    """

    draws: Floats
    sampled: Bools
    few: bool


def select_sampled(layers: Sequence[LayerWeights], budget: int, rng: np.random.Generator) -> list[LayerChoice]:
    """Draw the weights of all layers.

    Args:
        layers: The layers.
        budget: How many weights may stay in all of them together.
        rng: Decides the draws.

    Returns:
        The choices; no more than the budget stays.
    """
    parts = Parts.of(layers)
    return drawn_choices(layers, parts, allocated(parts, budget, lambda draws: parts.live), budget, rng)


def allocated(parts: Parts, budget: int, drawn: Callable[[Floats], Bools]) -> DrawAllocation:
    """Divide a budget with a margin for what draws hit by chance.

    Whether a weight is hit are negatively associated events, so the variance of the number of distinct weights is at
    most the sum of q (1 - q) over their probabilities q; that is largest where all of a part are alike.

    Args:
        parts: The parts.
        budget: How many weights may stay.
        drawn: Tells which parts are drawn of how many weights each may keep.
    """
    draws = allocate_draws(parts, budget)
    sampled = drawn(draws) & (draws < parts.counts)
    shares = np.divide(draws, parts.counts, out=np.zeros(len(draws)), where=parts.counts > 0)
    margin = SIGMAS * math.sqrt(float((draws * (1 - shares))[sampled].sum()))
    if margin > budget * _MOST_MARGIN:
        return DrawAllocation(draws, sampled, few=True)
    draws = allocate_draws(parts, budget - margin)
    return DrawAllocation(draws, drawn(draws) & (draws < parts.counts), few=False)


def drawn_choices(
    layers: Sequence[LayerWeights], parts: Parts, allocation: DrawAllocation, budget: int, rng: np.random.Generator
) -> list[LayerChoice]:
    """Draw from some parts, and keep the most sensitive weights of the others.

    Args:
        layers: The layers.
        parts: Their parts.
        allocation: How many weights every part may keep.
        budget: How many weights may stay.
        rng: Decides the draws.
    """
    draws, sampled = allocation.draws, allocation.sampled
    most = whole_draws(np.where(sampled, 0.0, draws), parts.counts)
    ends = np.cumsum([0, *(2 * layer.count for layer in layers)])
    plans: list[_LayerPlan] = []
    for layer, first, last in zip(layers, ends, ends[1:], strict=False):
        plans.append(_LayerPlan.of(layer, draws[first:last], sampled[first:last], most[first:last], few=allocation.few))
    for _ in range(ATTEMPTS):
        choices = [plan.choice(rng) for plan in plans]
        spare = budget - sum(choice.kept for choice in choices)
        if spare >= 0:
            break
    else:
        raise AssertionError("draws hit more weights than the budget has again and again")
    whole = not sampled.any() and int(most.sum()) == int(parts.counts[parts.live].sum())
    return _with_others(layers, choices, spare) if whole else choices


@dataclass(frozen=True, slots=True, eq=False)
class _LayerPlan:
    """How one layer is drawn.

    Attributes:
        layer: The layer.
        members: Places of the weights of every part that fire, those with the largest sensitivities first.
        sampled: Which parts are drawn.
        most: How many weights the others keep.
        draws: N of the parts that are drawn.
    """

    layer: LayerWeights
    members: list[Ints]
    sampled: Bools
    most: Ints
    draws: Ints

    @classmethod
    def of(cls, layer: LayerWeights, expected: Floats, sampled: Bools, most: Ints, *, few: bool) -> _LayerPlan:
        members = _members(layer)
        draws = np.zeros(len(members), np.int64)
        for part in np.flatnonzero(sampled).tolist():
            m = float(expected[part])
            draws[part] = math.floor(m) if few else draws_within(probabilities(layer.shares[members[part]]), m)
        return cls(layer, members, sampled, most, draws)

    def choice(self, rng: np.random.Generator) -> LayerChoice:
        """Draw once."""
        layer = self.layer
        factors, shares = np.zeros(len(layer.weights)), layer.shares.astype(np.float64)
        bounds = np.zeros(2 * layer.count)
        # All drawn parts of a layer keep their bounds at once, but for the probability that the logarithm stands for.
        log_term = layer.log_term + math.log(max(1, np.count_nonzero(self.draws)))
        for part, places in enumerate(self.members):
            if self.draws[part]:
                factors[places], bounds[part] = _drawn(shares[places], int(self.draws[part]), log_term, rng)
                continue
            factors[places[: self.most[part]]] = 1.0
            bounds[part] = bound_of_dropped(shares[places[self.most[part] :]].sum())
        return LayerChoice(factors, bounds, self.draws > 0)


def _drawn(shares: Floats, draws: int, log_term: float, rng: np.random.Generator) -> tuple[Floats, float]:
    """Draw from one part; returns the factors, and the bound on its error."""
    p = probabilities(shares)
    hits = rng.multinomial(draws, p)
    factors = np.divide(hits, draws * p, out=np.zeros(len(p)), where=p > 0)
    # What is too small to be drawn goes for sure.
    faint = bound_of_dropped(shares[p == 0].sum())
    return factors, float(bound_of_draws(shares[p > 0].sum(), draws, log_term) + faint)


def draws_within(p: Floats, most: float) -> int:
    """Return the largest number of draws that are expected to hit at most so many distinct weights.

    Args:
        p: Probabilities, (n,).
        most: How many they may be.
    """
    miss = log_miss(p)

    def distinct(draws: int) -> float:
        return float(-np.expm1(draws * miss).sum()) - _SLACK

    # So many draws never hit more.
    low = math.floor(most)
    high = low + 1
    while distinct(high) <= most and high < _MOST_DRAWS:
        high *= 2
    return bisect_right(range(high), most, lo=low, key=distinct) - 1 if low else int(distinct(1) <= most)


def _members(layer: LayerWeights) -> list[Ints]:
    """Return the places of the weights of every part that fire, those with the largest sensitivities first."""
    places = np.flatnonzero((layer.shares > 0) & (layer.weights != 0))
    order = np.lexsort((-np.abs(layer.weights[places]), -layer.shares[places], layer.parts[places]))
    places = places[order]
    return np.split(places, np.searchsorted(layer.parts[places], np.arange(1, 2 * layer.count)))


def _with_others(layers: Sequence[LayerWeights], choices: Sequence[LayerChoice], spare: int) -> list[LayerChoice]:
    """Keep weights, too, that never fire: the largest, as far as the budget goes beyond all others."""
    others = [
        replace(layer, weights=np.where(choice.factors == 0, layer.weights, 0))
        for layer, choice in zip(layers, choices, strict=True)
    ]
    return [
        replace(choice, factors=choice.factors + more)
        for choice, more in zip(choices, largest(others, spare), strict=True)
    ]
