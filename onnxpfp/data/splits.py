"""Splits of the samples: fit, tuning (decides between fits), held out (measures the result and decides nothing).

Held-out samples are some of the calibration samples, or others that the user gives for that alone. What is measured on
them holds for new inputs only if nothing else has looked at them. So they are no part of what the stages call the
samples, and whoever measures the result has to ask for them by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxpfp.data.samples import Samples

__all__ = ["CalibrationData", "Given", "Split", "held_out_count", "least_to_split", "split_samples"]

Given = Literal["file", "random", "none"]
"""Where the samples come from: the user's file, noise that the user asked for, or a little noise to run the model."""

HELD_OUT = 128
"""Most samples that are held out, and most tuning samples."""
SHARE = 8
"""One of so many samples is held out, and one is a tuning sample."""
MOST_CERTIFYING = 512
"""Most samples that are held out where there is a target for the quality."""
CERTIFYING = 4
"""One of so many samples is held out there."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The samples that are not held out, in two disjoint parts.

    Attributes:
        fit: Scores, statistics and fits come from them.
        tuning: They decide which fit is better, and response curves are measured on them.
    """

    fit: Samples
    tuning: Samples


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationData:
    """The samples that the model is run on, and where they come from.

    Attributes:
        samples: The samples that may decide: none of them is held out. A little noise for verification where the user
            gives none.
        given: Where they come from.
        batch_size: Samples in one run that the model accepts.
        split: The samples in two parts; None where the user gives none, or too few to split.
        held_out: Samples that decide nothing; the drift of the result is measured on them. None where there are none,
            and in bodies, whose results are measured on the network around them.
        held_out_notes: How the held-out samples are read and run, where the user gives them apart and it is not what
            one would think.
        single: Why samples run one by one although the model promises a free batch; empty where they need not.
        independent: Whether no two of them come from one input of the user's, as the steps of a Loop do, or of a
            sequence whose states are carried. Only then is known how far their number goes.
        warnings: What looks wrong with the user's data, and what was made of them.
        unread: Images of a folder that were left out, for so many were not asked for.
    """

    samples: Samples
    given: Given
    batch_size: int
    split: Split | None
    held_out: Samples | None = None
    held_out_notes: tuple[str, ...] = ()
    single: str = ""
    independent: bool = True
    warnings: tuple[str, ...] = ()
    unread: int = 0

    @property
    def how_to_hold_out_more(self) -> str:
        """What to type to hold out more samples of those that are there; empty where there are none."""
        if not self.unread or self.held_out is None or len(self.held_out) >= MOST_CERTIFYING:
            return ""
        total = len(self.samples) + len(self.held_out) + self.unread
        return (
            f"--calib-samples N takes more of the {total:,} images, of which one in {CERTIFYING} is held out, at most "
            f"{MOST_CERTIFYING}"
        )

    @property
    def telling(self) -> bool:
        """Whether the data are the user's, and enough to hold some out."""
        return self.given == "file" and self.split is not None

    @property
    def no_promise(self) -> str:
        """Why what the held-out samples show promises nothing of other inputs; empty where it does."""
        if not self.independent:
            return "several of its samples come from one input or sequence"
        if self.held_out is None:
            return "no samples are held out"
        return "" if self.given == "file" else "the samples are noise"

    @property
    def notes(self) -> tuple[str, ...]:
        """How the user's data are read and run, where that is not what one would think."""
        if self.given == "none":
            return ()
        alone = (f"samples run one by one: {self.single}",) if self.single else ()
        return (*self.warnings, *self.samples.notes, *alone, *self.held_out_notes)

    @property
    def fit(self) -> Samples:
        """Samples that scores, statistics and fits come from: all where there is no split."""
        return self.samples if self.split is None else self.split.fit


def least_to_split(samples: Samples) -> int:
    """Return the fewest samples that can be split: each part fills whole batches where the model takes no others."""
    return SHARE * (samples.fixed_batch or 1)


def held_out_count(samples: int, *, certifying: bool) -> int:
    """Return how many of the calibration samples are held out.

    An eighth, at most 128, tells how far a result is from the original. A target for the quality wants more: to promise
    that 95 % of inputs keep their class, at a confidence of 95 %, 128 samples may have two flips, 512 may have 17 (the
    binomial bound of Clopper and Pearson, 1934). A network that keeps 97.5 % passes the first in 38 % of draws, the
    second in 90 %. A quarter leaves three of four to choose and fit by.

    Args:
        samples: How many there are.
        certifying: Whether there is a target for the quality.
    """
    return min(MOST_CERTIFYING, samples // CERTIFYING) if certifying else min(HELD_OUT, samples // SHARE)


def split_samples(samples: Samples, seed: int, held_out: int) -> tuple[Samples, Split | None, Samples | None]:
    """Split samples at random; every part fills whole batches where the model takes no others.

    Args:
        samples: The samples.
        seed: Of the draw.
        held_out: How many to hold out; 0 where others measure the result.

    Returns:
        The samples that may decide; their split, None where there are too few; the held-out ones, None where there are
        too few or none are asked for.
    """
    if len(samples) < least_to_split(samples):
        return samples, None, None
    unit = samples.fixed_batch or 1
    rng = np.random.default_rng(seed)
    rest, held = samples.split(max(unit, held_out // unit * unit), rng) if held_out else (samples, None)
    tuning = min(HELD_OUT, len(samples) // SHARE)
    return rest, Split(*rest.split(max(unit, tuning // unit * unit), rng)), held
