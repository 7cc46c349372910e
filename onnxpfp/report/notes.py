"""What the user should know of a pruning, beyond its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxpfp.counted import counted
from onnxpfp.pipeline.calibration import DataCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.verification import Verification
from onnxpfp.report.assumptions import DEPENDENT
from onnxpfp.report.classes import class_notes, class_report
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.outcome import Outcome
from onnxpfp.report.page import at_most
from onnxpfp.report.quantized import quantized_notes
from onnxpfp.report.trained import trained_note
from onnxpfp.score.energy import Energy
from onnxpfp.score.pfp import Pfp, Sipp

__all__ = ["notes_of"]

_OF_PFP = (Pfp.name, Sipp.name, Energy.name)
"""What ranks the channels of groups that have a bound of PFP."""


def notes_of(
    outcomes: Sequence[Outcome], outcome: Outcome, groups: Sequence[Sequence[GroupReport]], verified: Verification
) -> list[str]:
    """List what the user should know: of the run, of all parts, and of the first that was scored.

    Args:
        outcomes: Of all parts, the main graph first.
        outcome: Of the first part that was scored.
        groups: The groups of every part.
        verified: What was measured of the file that is written.
    """
    context = outcomes[0].context
    return [
        *_file_notes(context, verified),
        *_data_notes(context, outcome),
        *_output_notes(context, verified),
        *quantized_notes(outcomes),
        *draws_notes(context.whole.model),
        *context.data.notes,
        *(each.named(_sample_note(each)) for each, some in zip(outcomes, groups, strict=True) if _few(each, some)),
        *(note for each in outcomes for note in _other_shares(each)),
        *(note for each in outcomes for note in _nothing_alike(each)),
        *_bound_notes([group for some in groups for group in some]),
        *_result_notes(verified),
        *_choice_notes(outcomes, outcome),
    ]


def _file_notes(context: RunContext, verified: Verification) -> Iterator[str]:
    """Say in what form the model was pruned, and of which classes."""
    yield from context.whole.source.notes
    if context.classes is not None:
        yield from class_notes(class_report(context.classes))
    if context.met:
        yield "the model is as small as was asked for already: nothing was pruned"
    if verified.refused:
        yield (
            f"onnxruntime cannot load the file as it was given: {verified.refused}. What was measured and "
            "pruned is the same network in a form that it loads: nodes sorted, functions inlined, wrong records dropped"
        )


def _data_notes(context: RunContext, outcome: Outcome) -> Iterator[str]:
    """Say what data the choice lacks."""
    if not isinstance(outcome.calibration, DataCalibration) and context.plan is None:
        yield (
            f"no data: channels were chosen by weights alone ({outcome.calibration.scores.method}). A few "
            "hundred unlabelled inputs do better: --calib-data FILE.npz, arrays keyed by input name, "
            "samples along the batch axis. Without them `onnxpfp factorize` mostly keeps far more at as many "
            "multiply-adds"
        )
    if context.scores is not None and context.data.given == "none":
        yield (
            f"no data but the scores in {context.scores.title}: nothing was refitted by what layers read in the pruned "
            "network, and how far its output drifts was not measured. --calib-data FILE.npz beside --scores does both"
        )
    if context.data.given == "random":
        yield (
            "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs. Use "
            "this to try things out, never for a model that ships"
        )


def _output_notes(context: RunContext, verified: Verification) -> Iterator[str]:
    """Say what of the outputs no number of the report tells."""
    if verified.comparison is None:
        return
    drift = verified.comparison.drift
    if drift.lost:
        yield (
            f"the pruned model gives infinity or NaN in the place of {drift.lost:,} numbers of the original's outputs: "
            "keep more, or exclude what leads there"
        )
    if not context.data.no_promise:
        yield from filter(None, [trained_note(verified.comparison.outcomes.top_probability)])


def _few(outcome: Outcome, groups: Sequence[GroupReport]) -> bool:
    """Tell whether groups have bounds of PFP, from fewer samples than its size formula asks for."""
    bounded = any(group.epsilon is not None and group.ranked_by in _OF_PFP for group in groups)
    return bounded and outcome.samples < outcome.samples_wanted


def _result_notes(verified: Verification) -> Iterator[str]:
    """Say where the comparison shows nothing, and why the file is larger."""
    if verified.oracle.blank:
        yield "the original gives nothing but zeros on these inputs, so the comparison shows nothing: give other data"
    if verified.growth:
        grown = verified.after.bytes - verified.before.bytes
        yield f"the pruned file is larger than the original, by {grown:,} bytes: {verified.growth}"


def _choice_notes(outcomes: Sequence[Outcome], outcome: Outcome) -> Iterator[str]:
    """Say what came of a plan, and where channels were not chosen as was asked for."""
    context = outcomes[0].context
    if context.plan is not None and outcome.samples == 0:
        yield "replayed without data: nothing was refitted or folded into biases; give --calib-data for that"
    select = context.options.select
    forced = [
        each.named(group.name)
        for each in outcomes
        for group, chosen in zip(each.context.whole.graph.groups, each.decision.selections, strict=False)
        if chosen is not None and chosen.requested != select
    ]
    if forced and select in {"sampled", "mixed"}:
        yield (
            f"{counted(len(forced), 'group was', 'groups were')} selected deterministically, for their consumers' "
            f"weights cannot be scaled: {', '.join(forced[:3])}{', ...' if len(forced) > 3 else ''}"
        )
    if context.plan and context.plan.source_sha256 != context.whole.source.sha256:
        yield "the plan was made for another file; it fits this one by names and shapes"


def _other_shares(outcome: Outcome) -> Iterator[str]:
    """Say where a group keeps another share than was asked for with --share."""
    context, lossless = outcome.context, outcome.lossless
    for number, asked in context.shares.items():
        group = context.whole.graph.groups[number]
        size, kept = group.channels.size, int(outcome.decision.keep[group.channels].sum())
        wanted = asked.share * size
        # Half a channel is no choice of anybody's.
        if abs(kept - wanted) < 1:
            continue
        left = int(lossless.keep[group.channels].sum())
        step, fewest = context.alignment.of_group(left), context.options.min_channels
        if kept < wanted and left < size:
            why = f"{size - left} that cost nothing went before"
        elif kept == min(fewest, left):
            why = f"--min-channels {fewest}"
        else:
            why = f"widths are multiples of {step} or the whole group (--round-to)"
        yield outcome.named(
            f"--share '{asked.pattern}={asked.share:g}' asks for {wanted:g} of the {size} channels of '{group.name}', "
            f"and {kept} stay: {why}"
        )


def _nothing_alike(outcome: Outcome) -> Iterator[str]:
    """Say from which cosine on SFS would let something go, where it does not."""
    tau, closest = outcome.context.options.sfs, outcome.calibration.scores.closest
    if tau is not None and closest and max(closest) < tau:
        group = outcome.measured_part.measured.analysis.graph.groups[closest.index(max(closest))]
        yield outcome.named(
            f"--sfs {tau:g} finds no two channels alike: the largest cosine of two is {max(closest):.3g}, "
            f"in '{group.name}'"
        )


def _bound_notes(groups: Sequence[GroupReport]) -> list[str]:
    """Say where PFP's bound says nothing, what ranked the channels in its place, and what they cost as measured."""
    of_pfp = [group for group in groups if group.ranked_by in _OF_PFP]
    bounded = [(group, group.epsilon) for group in of_pfp if group.epsilon is not None]
    vacuous = [(group, epsilon) for group, epsilon in bounded if epsilon >= 1]
    if not vacuous:
        return []
    largest = max(epsilon for _, epsilon in vacuous)
    how = "1" if largest == 1 else f"1 to {at_most(largest, 3)}"
    by_energy = sum(group.ranked_by == Energy.name for group, _ in vacuous)
    ranked = f"; the channels of {by_energy} of them were ranked by mean output energy" if by_energy else ""
    return [
        f"PFP's bound is vacuous (eps = {how}) in {len(vacuous)} of {counted(len(bounded), 'cut group')} at this "
        f"target: it promises nothing there{ranked}{_measured_errors([group for group, _ in vacuous])}"
    ]


def _measured_errors(groups: Sequence[GroupReport]) -> str:
    """Say between which limits the errors of choices lie that held-out samples bound; nothing where none do."""
    errors = [group.choice_error for group in groups if group.choice_error is not None]
    if not errors:
        return ""
    low, high = at_most(min(errors), 2), at_most(max(errors), 2)
    where = "" if len(errors) == len(groups) else f" in {len(errors)} of them"
    return (
        f"; measured on held-out samples, the choice alone costs a layer's output{where} a relative error in the mean "
        f"square of at most {high if low == high else f'{low} to {high}'}"
    )


def _sample_note(outcome: Outcome) -> str:
    failure = outcome.failure
    with_these = "these are too few for any probability"
    if not outcome.context.data.independent:
        with_these = f"no probability is known of these, for {DEPENDENT}"
    if failure is not None and failure < 1:
        with_these = (
            f"with these, the assumption of the bounds fails with a probability of at most {at_most(failure, 1)}"
        )
    given = (
        counted(outcome.samples, "sample") if outcome.part.body is None else f"{counted(outcome.samples, 'run')} of it"
    )
    return (
        f"S: {given}; the size formula asks for {outcome.samples_wanted} at delta = "
        f"{outcome.context.options.delta:g}; {with_these}"
    )
