"""Promises about the written file: what its held-out samples tell of inputs that nobody has seen. Pure numpy.

Each holds alone with the confidence that was asked for, 1 - alpha; two of them hold together with 1 - 2 alpha at least.
They are about inputs drawn like the samples. Where one of several candidates was chosen on the same samples, alpha is
divided by the number of candidates (`onnxpfp.comparison.certificate`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.comparison.certificate import agreement_bound, largest_coverage, mean_bound, tolerance_limit
from onnxpfp.comparison.outcomes import Outcomes

__all__ = ["Agreement", "DriftLimit", "MeanDrift", "Promises", "promises_of"]

SHARES = (0.5, 0.9, 0.95, 0.99)
"""Shares of inputs of which is said how far they drift, beside the largest that the samples are enough for."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A share of inputs keeps its class.

    Attributes:
        at_least: The share.
        agree: Samples that keep it.
        samples: Samples for which the original has a largest class.
    """

    at_least: float
    agree: int
    samples: int


@dataclass(frozen=True, slots=True)
class DriftLimit:
    """A share of inputs has a relative output error within a limit.

    Attributes:
        share: The share, at least.
        at_most: The limit.
    """

    share: float
    at_most: float


@dataclass(frozen=True, slots=True)
class MeanDrift:
    """The mean over inputs of the relative output error, clipped at 1.

    Attributes:
        at_most: Bound of the mean.
        observed: Mean over the samples.
    """

    at_most: float
    observed: float


@dataclass(frozen=True, slots=True)
class Promises:
    """What is promised of inputs like the samples.

    Attributes:
        confidence: Of each promise.
        samples: Held-out samples that it rests on.
        candidates: Of so many files one was chosen with these samples; 1 where they decided nothing.
        agreement: About classes; None where no output looks like class scores.
        drift: About the relative output error, ascending shares; empty where it is not known for each sample.
        mean_drift: About its mean; None likewise.
    """

    confidence: float
    samples: int
    candidates: int
    agreement: Agreement | None
    drift: tuple[DriftLimit, ...]
    mean_drift: MeanDrift | None


def promises_of(outcomes: Outcomes, confidence: float, samples: int, candidates: int = 1) -> Promises:
    """Make promises of what became of held-out samples.

    Args:
        outcomes: What became of each.
        confidence: 1 - alpha of each promise.
        samples: How many there are.
        candidates: One of so many files was chosen with them.
    """
    alpha = (1.0 - confidence) / candidates
    errors = outcomes.errors
    return Promises(
        confidence=confidence,
        samples=samples,
        candidates=candidates,
        agreement=_agreement(outcomes, alpha),
        drift=() if errors is None else _drift_limits(errors, alpha),
        mean_drift=None if errors is None else _mean_drift(errors, alpha),
    )


def _agreement(outcomes: Outcomes, alpha: float) -> Agreement | None:
    agree = outcomes.agree
    if agree is None or not agree.size:
        return None
    kept = int(agree.sum())
    return Agreement(agreement_bound(kept, agree.size, alpha), kept, agree.size)


def _drift_limits(errors: Floats, alpha: float) -> tuple[DriftLimit, ...]:
    """Return the limits of some shares, and the largest error with the share that it covers."""
    largest = largest_coverage(len(errors), alpha)
    limits = [(share, tolerance_limit(errors, share, alpha)) for share in SHARES if share < largest]
    known = [DriftLimit(share, limit) for share, limit in limits if limit is not None]
    return (*known, DriftLimit(largest, float(errors.max())))


def _mean_drift(errors: Floats, alpha: float) -> MeanDrift:
    clipped = np.minimum(errors, 1.0)
    return MeanDrift(mean_bound(clipped, alpha), float(clipped.mean()))
