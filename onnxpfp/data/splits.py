"""The samples by what they are for: to fit, to decide between fits, to measure what nothing was chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxpfp.data.samples import Samples

__all__ = ["CalibrationData", "Given", "Split", "least_to_split", "split_samples"]

Given = Literal["file", "random", "none"]
"""What the samples tell: the user's inputs, noise in their place, or a little noise to run the model on at all."""

HELD_OUT = 128
"""Most samples that nothing is chosen by: the drift is measured on them. As many others decide between fits."""
SHARE = 8
"""One of so many samples is held out, and one decides."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Samples by what they are for.

    Attributes:
        fit: Scores, statistics and fits are made on them.
        tuning: They decide which fit is better and how far the output drifts.
        held_out: The drift of the result is measured on them.
    """

    fit: Samples
    tuning: Samples
    held_out: Samples


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationData:
    """The samples that the model is run on, and what they tell about the user's data.

    Attributes:
        samples: The samples; a little noise for the oracle where the user gives none.
        given: What they tell.
        batch_size: Samples in one run that the model accepts.
        split: The same by what they are for; None where there are none, or too few to hold some out.
    """

    samples: Samples
    given: Given
    batch_size: int
    split: Split | None

    @property
    def fit(self) -> Samples:
        """Samples that scores, statistics and fits are made on."""
        return self.samples if self.split is None else self.split.fit


def least_to_split(samples: Samples) -> int:
    """Return how many samples it takes to hold some out: these fill whole batches where the model takes no others."""
    return SHARE * (samples.fixed_batch or 1)


def split_samples(samples: Samples, seed: int) -> Split | None:
    """Split samples by what they are for, where there are enough."""
    unit = samples.fixed_batch or 1
    held = min(HELD_OUT, len(samples) // SHARE) // unit * unit
    if not held:
        return None
    rng = np.random.default_rng(seed)
    rest, held_out = samples.split(held, rng)
    return Split(*rest.split(held, rng), held_out)
