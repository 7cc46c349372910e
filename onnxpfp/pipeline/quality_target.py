"""What a target of quality promises, and whether so many held-out samples can promise it at all.

Agreement is the share of inputs that keep their largest class; it is bounded from below by the exact binomial. Drift is
the mean over inputs of the relative output error of one input, counted as 1 where it is more; it is bounded from above
by betting (`onnxpfp.comparison.certificate`). Both come from a loss in [0, 1] of every sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.comparison.certificate import agreement_bound, mean_bound, samples_for_mean, samples_needed
from onnxpfp.comparison.evaluator import Comparison
from onnxpfp.comparison.outcomes import Outcomes
from onnxpfp.data.samples import Samples
from onnxpfp.errors import CalibrationError, CertificationError, OptionError
from onnxpfp.options import Options

__all__ = ["Certified", "QualityTarget", "require_enough", "require_measurable"]

_NO_CLASSES = (
    "compares the largest class of every sample, and no output looks like class scores: a float matrix with one row "
    "per sample and two columns at least",
    "--max-drift X bounds the relative output error in its place",
)
_NO_FLOATS = ("looks at float outputs, and the model has none", "--keep-macs F sets the size")
_TOGETHER = (
    "is a mean over inputs, and an output does not tell apart the samples that are fed together",
    "export the model with one sample in each run, or give --batch-size 1 where the batch is free",
)
"""What an output lacks, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Certified:
    """What held-out samples say of one model, and promise of inputs that nobody has seen.

    Attributes:
        samples: How many there are.
        observed: The agreement, or the mean error, on them.
        bound: The one that they promise.
        passed: Whether that is what was asked for.
    """

    samples: int
    observed: float
    bound: float
    passed: bool


@dataclass(frozen=True, slots=True)
class QualityTarget:
    """A target for the quality of the output.

    Attributes:
        quantity: The mean relative output error (drift), or the share of inputs that keep their largest class.
        bound: The largest drift, or the smallest agreement.
        confidence: That of the promise.
    """

    quantity: Literal["drift", "agreement"]
    bound: float
    confidence: float

    @classmethod
    def of(cls, options: Options) -> Self | None:
        """Return what the options ask for, if they do."""
        if options.max_drift is not None:
            return cls("drift", options.max_drift, options.confidence)
        if options.min_agreement is not None:
            return cls("agreement", options.min_agreement, options.confidence)
        return None

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--max-drift" if self.quantity == "drift" else "--min-agreement"

    @property
    def title(self) -> str:
        """Flag, bound and confidence, for messages."""
        return f"{self.flag} {self.bound:g} with a confidence of {100 * self.confidence:g} %"

    @property
    def alpha(self) -> float:
        """Probability that the promise fails."""
        return 1.0 - self.confidence

    def losses(self, outcomes: Outcomes) -> Floats | None:
        """Return the loss of every sample, (n,), in [0, 1]; None where the outputs have nothing of the kind."""
        if self.quantity == "agreement":
            return None if outcomes.agree is None else (~outcomes.agree).astype(np.float64)
        if outcomes.errors is None:
            return None
        return np.minimum(outcomes.errors, 1.0)

    def certify(self, losses: Floats) -> Certified:
        """Return what so many losses say and promise."""
        n = len(losses)
        if self.quantity == "drift":
            bound = mean_bound(losses, self.alpha)
            return Certified(n, float(losses.mean()) if n else math.nan, bound, bound <= self.bound)
        agree = n - int(losses.sum())
        bound = agreement_bound(agree, n, self.alpha) if n else 0.0
        return Certified(n, agree / n if n else math.nan, bound, bound >= self.bound)

    def foresee(self, losses: Floats, samples: int) -> Certified:
        """Return what so many held-out samples would promise if they did as these do.

        Args:
            losses: On other samples, (n,).
            samples: How many are held out.
        """
        if not len(losses):
            return self.certify(losses)
        alike = np.resize(losses, samples)
        if self.quantity == "agreement":
            alike = (np.arange(samples) < math.ceil(losses.mean() * samples - 1e-9)).astype(np.float64)
        return self.certify(alike)

    def rounded(self, bound: float) -> str:
        """Return a bound that is promised as a target that it would meet, three digits."""
        if self.quantity == "agreement":
            return f"{math.floor(1000 * bound) / 1000:g}"
        unit = 10.0 ** (math.floor(math.log10(bound)) - 2)
        return f"{math.ceil(bound / unit) * unit:.3g}"


def require_measurable(target: QualityTarget, compared: Comparison, title: str) -> None:
    """Make sure that the outputs have what a target limits.

    Args:
        target: The target.
        compared: The model, compared with itself.
        title: Its name.

    Raises:
        OptionError: They have nothing of the kind.
    """
    losses = target.losses(compared.outcomes)
    if losses is not None and len(losses):
        return
    what, instead = _NO_CLASSES
    if target.quantity == "drift":
        what, instead = _NO_FLOATS if compared.drift.relative_error is None else _TOGETHER
    raise OptionError(f"{title}: {target.flag} {what}", hint=instead)


def require_enough(target: QualityTarget, held_out: Samples, given: int | None, more: str = "") -> None:
    """Make sure that held-out samples can promise a target, if only all of them did as the original does.

    Args:
        target: The target.
        held_out: The samples that are held out.
        given: How many samples were given, of which these are some; None where they were given apart.
        more: How to hold out more, where there are more.

    Raises:
        CalibrationError: They are too few.
        CertificationError: Those that were given apart are.
    """
    n, alpha = len(held_out), target.alpha
    best = target.certify(np.zeros(n))
    if best.passed:
        return
    if target.quantity == "agreement":
        none, one, two = (_needed(target.bound, alpha, misses) for misses in range(3))
        takes = (
            f"takes {none} held-out {'sample that keeps its' if none == '1' else 'samples that all keep their'} class "
            f"({one} with one that does not, {two} with two)"
        )
    else:
        needed = samples_for_mean(target.bound, alpha)
        takes = f"takes {'more than a million' if needed is None else f'{needed:,}'} held-out samples without any error"
    if best.bound in {0.0, 1.0}:
        most = "nothing"
    else:
        extreme = "most" if target.quantity == "agreement" else "least"
        most = f"{target.flag} {target.rounded(best.bound)} at the {extreme}"
    if given is None:
        raise CertificationError(
            f"--certify-data: {target.title} {takes}, and {n:,} are given", hint=f"give more; these can promise {most}"
        )
    raise CalibrationError(
        f"{target.title} {takes}; of {given:,} given, {n:,} are held out",
        hint=f"{more or 'give more samples'}; or give --certify-data; these can promise {most}",
    )


def _needed(share: float, alpha: float, misses: int) -> str:
    """Say how many samples it takes to promise a share with so many misses."""
    try:
        return f"{samples_needed(share, alpha, misses):,}"
    except ValueError:
        return "more than a million million"
