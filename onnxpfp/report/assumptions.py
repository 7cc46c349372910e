"""What the bounds of groups are of and rest on, and why some have none."""

from __future__ import annotations

from onnxpfp.allocation.select import ALL_GO, Selection
from onnxpfp.counted import counted
from onnxpfp.pipeline.calibration import DataCalibration
from onnxpfp.pipeline.choice_bounds import UNIT_SAMPLES
from onnxpfp.report.outcome import Outcome
from onnxpfp.report.page import at_most
from onnxpfp.score.coreset import CoresetShare
from onnxpfp.score.pfp import K_TAIL, K

__all__ = ["DEPENDENT", "assumption_of", "assumption_of_error", "why_without_bounds"]

DEPENDENT = "several of them come from one input or sequence"
"""Why nothing is known of how far the runs of a body, or the steps of a sequence, go."""


def why_without_bounds(outcome: Outcome, chosen: Selection | None, *, cut: bool, went: bool) -> str:
    """Say why a group has no bounds at all; nothing where it may have some.

    Args:
        outcome: The result of the part that it lies in.
        chosen: How it was selected; None where nothing of it was left to select from in the end.
        cut: Whether channels were chosen to go.
        went: Whether all did.
    """
    if outcome.context.plan is not None:
        return "a plan was replayed, and nothing scored"
    if chosen is None and went:
        return ALL_GO
    if chosen is None or not cut:
        return "nothing was chosen to go"
    steps = outcome.context.options.steps
    if steps > 1:
        ranked = outcome.measured_part.measured.ranked
        return f"chosen in {steps} steps" + ("" if ranked else ", each from what the one before had left")
    return ""


def assumption_of(outcome: Outcome, chosen: Selection | None) -> str:
    """Say what eps of a group is of, and rests on: a body was scored on what it was fed itself."""
    calibration, options = outcome.calibration, outcome.context.options
    draws = ""
    if chosen is not None and chosen.draws:
        draws = f"; for one input, it fails with a probability of at most {options.delta:g} over the draws"
    alone = _alone(outcome)
    if calibration.scores.additive:
        return outcome.named(f"{_additive(outcome)}: {alone}{draws}")
    if calibration.scores.method == CoresetShare.name:
        return outcome.named(
            "weights alone: eps bounds how far the choice in this group moves any sum of a layer that reads it, as a "
            f"share of the most that its channels can add up to there for inputs of the same norm: {alone}. It says "
            f"nothing of the sum's own size on your data{draws}"
        )
    assert isinstance(calibration, DataCalibration)
    flag = "--score sipp" if options.score == "sipp" else "--kernel max"
    kernel = "" if options.entries == "sum" else f" times the entries that a channel has in a window, for {flag},"
    failure = calibration.failure
    chance = "not known to be below 1" if outcome.context.data.independent else f"not known, for {DEPENDENT}"
    if failure is not None and failure < 1:
        chance = f"at most {at_most(failure, 1)} (8 eta eta* exp(-n/{K_TAIL}))"
    runs = f"{counted(calibration.samples, 'run')} of it"
    seen = counted(calibration.samples, "sample") if outcome.part.body is None else runs
    return outcome.named(
        "eps bounds what the choice in this group changes in each sign part of a layer's sums (by the signs of weight "
        "and input), as a share of that part; of a layer that reads several cut groups it is the sum of theirs, and of "
        f"the sums themselves it can be more, where the parts cancel. {alone[0].upper()}{alone[1:]}. Assumed: no "
        f"channel's share of a sum is ever above K = {K}{kernel} times the largest of the {seen} "
        f"seen; the probability that these are too few for that, by PFP's formula: {chance}{draws}"
    )


def _additive(outcome: Outcome) -> str:
    """Say what the bounds of coreset scores are of."""
    ranges = outcome.context.options.input_ranges
    inputs = "inputs within the range that was given"
    if not ranges:
        inputs = "every input that is no larger, and makes no producer read a patch of larger norm, than the samples do"
    return (
        "bound is the most by which the choice in this group can move an output of a layer that reads it, in plain "
        f"numbers, for {inputs}; of a layer that reads several cut groups it is the sum of theirs"
    )


def assumption_of_error(outcome: Outcome) -> str:
    """Say what the error of a choice is of that held-out samples bound, and what that rests on."""
    held_out, confidence = outcome.context.data.held_out, outcome.context.options.confidence
    assert held_out is not None
    alone = _alone(outcome)
    return outcome.named(
        f"choice error bounds, with a confidence of {100 * confidence:g} % for each group, the relative error of the "
        "output of a layer that reads it, in the mean square: the root mean square, over inputs, outputs and "
        "positions, of what its sums lose, of all groups that it reads, over theirs on "
        f"at most {UNIT_SAMPLES} samples that are not held out; "
        "an error counts up to the root mean square of its own output. Single sums and single inputs can be further "
        f"off. {alone[0].upper()}{alone[1:]}. Measured on {counted(len(held_out), 'held-out sample')}; assumed: these "
        "are drawn independently of each other and of the other samples, like inputs of use"
    )


def _alone(outcome: Outcome) -> str:
    """Say that a bound is of nothing but the choice."""
    done = {"lstsq": "the refit", "bias": "means were folded", "merge": "channels were merged"}
    what = done.get(outcome.context.compensation)
    after = "" if what is None else f", before {what}"
    return f"of the choice alone{after}, layer by layer, each with the inputs that it has in the original"
