"""The promises that are tested: what onnxpfp says of held-out images, and what is true of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmarks.promises.chance import (
    agreement_failures,
    least_within,
    limit_failures,
    limit_place,
    mean_failures,
)
from benchmarks.promises.files import PrunedFile
from benchmarks.promises.schemes import Scheme
from onnxpfp.arrays import Floats
from onnxpfp.comparison.certificate import agreement_bound, largest_coverage, mean_bound, tolerance_limit
from onnxpfp.comparison.layers import SHARES, joint_limits

__all__ = ["PROMISES", "Checked", "Promise"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One promise of one draw.

    Attributes:
        promised: The bound.
        true: What it bounds.
        fails: Whether the truth is on the wrong side.
        share: Of how many inputs it is told; None where that is not what is given.
    """

    promised: float
    true: float
    fails: bool
    share: float | None = None


class Promise(ABC):
    """Something that is promised.

    Attributes:
        name: As the page shows it.
        expected_at_most: Whether `expected` is an upper bound of the rate of an exact promise.
    """

    name: str
    expected_at_most: ClassVar[bool] = False

    @abstractmethod
    def check(self, held_out: PrunedFile, truth: PrunedFile, alpha: float) -> Checked | None:
        """Promise by the held-out images, and look at the truth; None where they are too few."""

    @abstractmethod
    def expected(self, pool: PrunedFile, scheme: Scheme, alpha: float) -> float:
        """Return how often a promise that is exact would fail in such draws."""


class Agreement(Promise):
    """At least so many inputs keep their class."""

    name = "agreement"

    def check(self, held_out: PrunedFile, truth: PrunedFile, alpha: float) -> Checked:
        """As in `Promise`."""
        promised = agreement_bound(int(held_out.agree.sum()), len(held_out.agree), alpha)
        true = float(truth.agree.mean())
        return Checked(promised, true, promised > true)

    def expected(self, pool: PrunedFile, scheme: Scheme, alpha: float) -> float:
        """As in `Promise`."""
        return agreement_failures(scheme, len(pool.agree), int(pool.agree.sum()), alpha)


@dataclass(frozen=True)
class DriftLimit(Promise):
    """A share of the inputs drifts at most so far; without a share, the one that the largest held-out drift covers."""

    share: float | None

    @property
    def name(self) -> str:  # type: ignore[override]
        """As in `Promise`."""
        return "largest drift" if self.share is None else f"drift of {self.share:.0%}"

    def check(self, held_out: PrunedFile, truth: PrunedFile, alpha: float) -> Checked | None:
        """As in `Promise`."""
        share, promised = self.share, float(held_out.errors.max())
        if share is None:
            share = largest_coverage(len(held_out.errors), alpha)
        else:
            limit = tolerance_limit(held_out.errors, share, alpha)
            if limit is None:
                return None
            promised = limit
        true = _quantile(truth.errors, share)
        return Checked(promised, true, promised < true, share)

    def expected(self, pool: PrunedFile, scheme: Scheme, alpha: float) -> float:
        """As in `Promise`."""
        n, size = scheme.held_out, len(pool.errors)
        if self.share is None:
            return limit_failures(scheme, size, largest_coverage(n, alpha), n)
        place = limit_place(n, self.share, alpha)
        assert place is not None
        return limit_failures(scheme, size, self.share, place)


class MeanDrift(Promise):
    """The mean drift, clipped at 1, is at most so much."""

    name = "mean drift"

    def check(self, held_out: PrunedFile, truth: PrunedFile, alpha: float) -> Checked:
        """As in `Promise`."""
        promised = mean_bound(np.minimum(held_out.errors, 1.0), alpha)
        true = float(np.minimum(truth.errors, 1.0).mean())
        return Checked(promised, true, promised < true)

    def expected(self, pool: PrunedFile, scheme: Scheme, alpha: float) -> float:
        """As in `Promise`."""
        return mean_failures(scheme, len(pool.errors), alpha)


class LayerLimits(Promise):
    """At every layer a share of the inputs has an error of at most so much."""

    name = "all layers"
    expected_at_most = True

    def check(self, held_out: PrunedFile, truth: PrunedFile, alpha: float) -> Checked | None:
        """As in `Promise`; what is promised and what is true are the medians over the layers."""
        joint = joint_limits(held_out.layers, alpha)
        if joint is None:
            return None
        share, limits = joint
        true = np.array([_quantile(each, share) for each in truth.layers])
        return Checked(float(np.median(limits)), float(np.median(true)), bool((limits < true).any()), share)

    def expected(self, pool: PrunedFile, scheme: Scheme, alpha: float) -> float:
        """As in `Promise`, by the union bound over the layers."""
        layers, size = pool.layers.shape
        for share in SHARES:
            place = limit_place(scheme.held_out, share, alpha / layers)
            if place is not None:
                return min(1.0, layers * limit_failures(scheme, size, share, place))
        raise AssertionError(scheme)


PROMISES: tuple[Promise, ...] = (
    Agreement(),
    DriftLimit(0.9),
    DriftLimit(0.95),
    DriftLimit(0.99),
    DriftLimit(None),
    MeanDrift(),
    LayerLimits(),
)


def _quantile(sizes: Floats, share: float) -> float:
    """Return the smallest size that such a share is within."""
    place = least_within(share, len(sizes)) - 1
    return float(np.partition(sizes, place)[place])
