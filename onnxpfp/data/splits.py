"""Splits of the samples: fit, tuning (decides between fits), held out (measures the result)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxpfp.data.samples import Samples

__all__ = ["CalibrationData", "Given", "Split", "least_to_split", "split_samples"]

Given = Literal["file", "random", "none"]
"""Where the samples come from: the user's file, noise that the user asked for, or a little noise to run the model."""

HELD_OUT = 128
"""Most samples that are held out; there are as many tuning samples."""
SHARE = 8
"""One of so many samples is held out, and one is a tuning sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The samples in three disjoint parts.

    Attributes:
        fit: Scores, statistics and fits come from them.
        tuning: They decide which fit is better, and response curves are measured on them.
        held_out: They decide nothing; the drift of the result is measured on them.
    """

    fit: Samples
    tuning: Samples
    held_out: Samples


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationData:
    """The samples that the model is run on, and where they come from.

    Attributes:
        samples: The samples; a little noise for verification where the user gives none.
        given: Where they come from.
        batch_size: Samples in one run that the model accepts.
        split: The samples in three parts; None where the user gives none, or too few to split.
        single: Why samples run one by one although the model promises a free batch; empty where they need not.
        independent: Whether no two of them come from one input of the user's, as the steps of a Loop do. Only then is
            known how far their number goes.
    """

    samples: Samples
    given: Given
    batch_size: int
    split: Split | None
    single: str = ""
    independent: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """How the user's data are read and run, where that is not what one would think."""
        if self.given == "none":
            return ()
        alone = (f"samples run one by one: {self.single}",) if self.single else ()
        return (*self.samples.notes, *alone)

    @property
    def fit(self) -> Samples:
        """Samples that scores, statistics and fits come from: all where there is no split."""
        return self.samples if self.split is None else self.split.fit


def least_to_split(samples: Samples) -> int:
    """Return the fewest samples that can be split: each part fills whole batches where the model takes no others."""
    return SHARE * (samples.fixed_batch or 1)


def split_samples(samples: Samples, seed: int) -> Split | None:
    """Split samples at random into fit, tuning and held out; None where there are too few."""
    unit = samples.fixed_batch or 1
    held = min(HELD_OUT, len(samples) // SHARE) // unit * unit
    if not held:
        return None
    rng = np.random.default_rng(seed)
    rest, held_out = samples.split(held, rng)
    return Split(*rest.split(held, rng), held_out)
