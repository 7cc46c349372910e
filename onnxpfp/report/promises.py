"""What is promised of the written file, in words."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor

from onnxpfp.comparison.promises import Promises
from onnxpfp.counted import counted
from onnxpfp.report.page import at_most

__all__ = ["promised"]

SHOWN = (0.9, 0.95)
"""Shares of inputs whose drift is told, where there are samples enough for one of them; JSON has more."""


def promised(promises: Promises, *, planned: bool) -> str:
    """Say what is promised, and on what that rests.

    Args:
        promises: What is promised.
        planned: Whether a plan said what stays: what that was made with is not known.
    """
    parts = [*_agreement(promises), *_drift(promises)]
    if not parts:
        return "nothing, for no output is a float that tells the samples apart: try --batch-size 1"
    chosen = ""
    if promises.candidates > 1:
        chosen = f", which chose among {promises.candidates} files (each promise counts that in)"
    return (
        f"{'; '.join(parts)}: each with a confidence of {100 * promises.confidence:.4g} %, for inputs like the "
        f"{counted(promises.samples, 'held-out sample')}{chosen}"
        f"{', if the plan was made without them' if planned else ''}"
    )


def _agreement(promises: Promises) -> Iterator[str]:
    """Say how many inputs keep their class."""
    agreement = promises.agreement
    if agreement is not None:
        share = floor(1000 * agreement.at_least) / 10
        yield f"at least {share:.1f} % of inputs keep their top-1 class ({agreement.agree} of {agreement.samples} do)"


def _drift(promises: Promises) -> Iterator[str]:
    """Say how far inputs drift: some shares of them, and the mean."""
    shown = [limit for limit in promises.drift if limit.share in SHOWN] or promises.drift[-1:]
    if shown:
        limits = (f"{floor(1000 * limit.share) / 10:g} % of inputs {at_most(limit.at_most, 3)}" for limit in shown)
        yield f"relative output error at most, in {', in '.join(limits)}"
    if promises.mean_drift is not None:
        yield f"its mean (clipped at 1) at most {at_most(promises.mean_drift.at_most, 3)}"
