"""Assemble the report from what the stages of the pipeline handed on."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import onnxpfp
from onnxpfp.allocation.select import Selection
from onnxpfp.channels.types import Fixed
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.promises import Promises, promises_of
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.pipeline.calibration import Calibration, DataCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.footprint import reachable_params, staying_axes
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.network_steps import MeasuredPart
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.quality_search import FoundShare
from onnxpfp.pipeline.quality_target import Certified
from onnxpfp.pipeline.verification import Verification
from onnxpfp.refit.means import Compensation, Record
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.page import at_most
from onnxpfp.report.pruning import BodyReport, Report
from onnxpfp.report.trained import trained_note
from onnxpfp.score.energy import Energy
from onnxpfp.score.pfp import K_TAIL, K

__all__ = ["Outcome", "build_report"]

DEPENDENT = "several of them come from one sample"
"""Why nothing is known of how far the runs of a body go."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The results of the pipeline's stages for one part of the network, in their order.

    Attributes:
        measured_part: The part, and what was measured on it.
        decision: What stays, in terms of the part as it was.
        compensation: What was done about the channels that go.
    """

    measured_part: MeasuredPart
    decision: Decision
    compensation: Compensation | None

    @property
    def part(self) -> NetworkPart:
        """The part."""
        return self.measured_part.part

    @property
    def context(self) -> RunContext:
        """What its stages share."""
        return self.part.context

    @property
    def calibration(self) -> Calibration:
        """Its scores."""
        return self.measured_part.measured.calibration

    @property
    def lossless(self) -> LosslessStep:
        """What went from it for free."""
        return self.measured_part.lossless

    @property
    def samples(self) -> int:
        """Samples that the calibration has used."""
        return self.calibration.samples if isinstance(self.calibration, DataCalibration) else 0

    @property
    def samples_wanted(self) -> int:
        """Samples that the size formula asks for."""
        return self.calibration.required if isinstance(self.calibration, DataCalibration) else 0

    @property
    def failure(self) -> float | None:
        """Probability, by the same formula, that the samples are too few for what the bounds assume."""
        return self.calibration.failure if isinstance(self.calibration, DataCalibration) else None

    def named(self, name: str) -> str:
        """Return the name of what is in this part, as a report calls it: behind the place of its body."""
        return self.part.analyzed.named(name)


def build_report(
    network: Network,
    outcomes: Sequence[Outcome],
    verified: Verification,
    found: FoundShare | None,
    certified: Certified | None,
    latency: LatencyFindings | None,
    *,
    unchanged: bool,
) -> Report:
    """Build the report.

    Args:
        network: The parts, and the bodies that stay.
        outcomes: The results of every part; the first is the main graph.
        verified: The comparison with the original.
        found: How the share for a target of quality was found.
        certified: What held-out samples say of the written model for it.
        latency: The comparison of a run's time; None where it was not asked for.
        unchanged: Whether nothing was removed, so that the file stays as it is.
    """
    # Where all weights lie in bodies, nothing was scored in the main graph.
    first = next((each for each in outcomes if each.part.prunable), outcomes[0])
    context, options = outcomes[0].context, outcomes[0].context.options
    quantity, share = options.target
    if context.plan is not None:
        method, target = "plan", {}
    else:
        method = first.calibration.scores.method
        asked = {"max_drift": options.max_drift, "min_agreement": options.min_agreement}
        target = {name: value for name, value in asked.items() if value is not None} or {quantity: share}
    reachable = [reachable_params(outcome.context.whole) for outcome in outcomes]
    compensations = [(each, each.compensation) for each in outcomes if each.compensation]
    groups = [_groups(outcome) for outcome in outcomes]
    failure = first.failure
    drift = None if verified.comparison is None else verified.comparison.drift
    promises = _promises(context, verified)
    return Report(
        before=verified.before,
        after=verified.after,
        inputs=context.whole.shapes.inputs,
        target=target,
        trials=found.searched.trials if found else (),
        tests=found.descent.tests if found else (),
        confidence=options.confidence,
        certified=certified,
        reachable=sum(reached for reached, _ in reachable) / max(sum(total for _, total in reachable), 1),
        method=method,
        allocation=context.allocation,
        compensation=context.compensation,
        steps=options.steps,
        attention=options.attention,
        samples=first.samples,
        samples_of=first.part.place,
        samples_wanted=first.samples_wanted,
        samples_failure=failure if failure is not None and failure < 1 else None,
        groups=tuple(group for some in groups for group in some),
        removed=tuple(removal for outcome in outcomes for removal in _removed(outcome)),
        subnormal=_subnormal(outcomes, unchanged=unchanged),
        skipped=tuple(fixed for outcome in outcomes for fixed in _skipped(outcome)),
        bodies=_bodies(network, outcomes, verified),
        oracle=verified.oracle,
        drift=drift,
        promises=promises,
        layers=verified.layers,
        latency=latency,
        refits=tuple(replace(r, name=each.named(r.name)) for each, made in compensations for r in made.refits),
        compensated=tuple(each.named(name) for each, made in compensations for name in made.folded),
        uncompensated=tuple((each.named(name), why) for each, made in compensations for name, why in made.left),
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        versions=_versions(),
        notes=tuple(dict.fromkeys([*_notes(outcomes, first, groups, verified), *_slower(latency)])),
    )


def _promises(context: RunContext, verified: Verification) -> Promises | None:
    """Promise what the held-out samples tell; nothing where they are noise, or have decided freely."""
    comparison, candidates = verified.comparison, verified.candidates
    if comparison is None or context.data.given != "file" or not candidates:
        return None
    return promises_of(comparison.outcomes, context.options.confidence, comparison.drift.samples, candidates)


def _slower(latency: LatencyFindings | None) -> list[str]:
    return [latency.note] if latency is not None and latency.note else []


def _removed(outcome: Outcome) -> Iterator[Removal]:
    return (replace(removal, group=outcome.named(removal.group)) for removal in outcome.lossless.removed)


def _subnormal(outcomes: Sequence[Outcome], *, unchanged: bool) -> SubnormalWeights:
    """Count the subnormal weights of all parts."""
    found = sum((outcome.context.subnormal for outcome in outcomes), SubnormalWeights())
    return replace(found, zeroed=0) if unchanged else found


def _skipped(outcome: Outcome) -> Iterator[Fixed]:
    return (replace(f, tensor=outcome.named(f.tensor)) for f in staying_axes(outcome.context.whole))


def _bodies(network: Network, outcomes: Sequence[Outcome], verified: Verification) -> tuple[BodyReport, ...]:
    """Tell of every body how often it runs, how large it was and is, and how near the masked original it is."""
    reports = [
        BodyReport(
            place=outcome.part.place,
            runs=outcome.part.runs,
            macs_before=checked.before,
            macs_after=checked.after,
            samples=len(outcome.context.data.samples),
            oracle=checked.oracle,
            reason=outcome.part.stays,
        )
        for outcome, checked in zip(outcomes[1:], verified.bodies, strict=True)
    ]
    left = [BodyReport(body.place, None, None, None, 0, None, body.reason) for body in network.left]
    return (*reports, *left)


def _groups(outcome: Outcome) -> tuple[GroupReport, ...]:
    graph, selections = outcome.context.whole.graph, outcome.decision.selections
    calibration, decision, compensation = outcome.calibration, outcome.decision, outcome.compensation
    current = outcome.lossless.lineage.current
    refits: Sequence[Record] = compensation.refits if compensation else ()
    refitted = {record.name for record in refits if record.after < record.before}
    folded = set(compensation.folded) if compensation else set[str]()
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = selections[number] if selections else None
        consumers = tuple(graph.consumers[c].name for c in group.consumers)
        stays = decision.keep[group.channels]
        # Channels as they were scored, each once: several may have become one.
        scored = np.setdiff1d(current[group.channels], [0])
        cut = bool(((current[group.channels] != 0) & ~stays).any())
        sensitive = chosen is not None and not chosen.unbounded and not calibration.scores.summed
        reason = _without_bound(outcome, chosen, cut=cut)
        reports.append(
            GroupReport(
                name=outcome.named(group.name),
                channels=int(group.channels.size),
                kept=int(stays.sum()),
                sensitivity_sum=float(calibration.scores.values[scored].sum()) if sensitive else None,
                epsilon=chosen.bound if chosen and not reason else None,
                no_epsilon=reason,
                ranked_by=_ranking(outcome, chosen) if cut else "",
                widths_by=outcome.context.allocation if chosen and cut else "",
                selection=chosen.variant if chosen else _unselected(outcome),
                refitted=tuple(outcome.named(name) for name in consumers if name in refitted),
                folded=tuple(outcome.named(name) for name in consumers if name in folded),
                assumption="" if reason else _assumption(outcome, chosen),
                consumers=tuple(map(outcome.named, consumers)),
            )
        )
    return tuple(reports)


def _unselected(outcome: Outcome) -> str:
    """Say what decided on a group that was not selected."""
    if outcome.context.plan is not None:
        return "plan"
    return "lossless" if outcome.context.chooses else "all"


def _without_bound(outcome: Outcome, chosen: Selection | None, *, cut: bool) -> str:
    """Say why a group has no bound; nothing where it has one."""
    if outcome.context.plan is not None:
        return "a plan was replayed, and nothing scored"
    if chosen is None or not cut:
        return "nothing was chosen to go"
    steps = outcome.context.options.steps
    if steps > 1:
        return f"chosen in {steps} steps, each from what the one before had left"
    return chosen.unbounded


def _ranking(outcome: Outcome, chosen: Selection | None) -> str:
    """Name what ranked the channels of a group."""
    if chosen is None:
        return "plan"
    return Energy.name if chosen.tie_broken else outcome.calibration.scores.method


def _assumption(outcome: Outcome, chosen: Selection | None) -> str:
    """Say what the bound of a group is of, and rests on: a body was scored on what it was fed itself."""
    calibration, options = outcome.calibration, outcome.context.options
    draws = ""
    if chosen is not None and chosen.draws:
        draws = f"; for one input, it fails with a probability of at most {options.delta:g} over the draws"
    after = {"lstsq": ", before the refit", "bias": ", before means were folded"}.get(outcome.context.compensation, "")
    alone = f"of the choice alone{after}, layer by layer, each with the inputs that it has in the original"
    if calibration.scores.mean_squares:
        return outcome.named(_mean_share_assumption(outcome, alone))
    if not isinstance(calibration, DataCalibration):
        return outcome.named(
            "weights alone: eps bounds how far the choice in this group moves any sum of a layer that reads it, as a share "
            f"of the most that its channels can add up to there for inputs of the same norm: {alone}. It says nothing of "
            f"the sum's own size on your data{draws}"
        )
    kernel = "" if options.kernel == "sum" else " times the entries that a channel has in a window, for --kernel max,"
    failure = calibration.failure
    chance = "not known to be below 1" if outcome.context.data.independent else f"not known, for {DEPENDENT}"
    if failure is not None and failure < 1:
        chance = f"at most {at_most(failure, 1)} (8 eta eta* exp(-n/{K_TAIL}))"
    seen = "samples" if outcome.part.body is None else "runs of it"
    return outcome.named(
        "eps bounds what the choice in this group changes in each sign part of a layer's sums (by the signs of weight "
        "and input), as a share of that part; of a layer that reads several cut groups it is the sum of theirs, and of "
        f"the sums themselves it can be more, where the parts cancel. {alone[0].upper()}{alone[1:]}. Assumed: no "
        f"channel's share of a sum is ever above K = {K}{kernel} times the largest of the {calibration.samples} {seen} seen; "
        f"the probability that these are too few for that, by PFP's formula: {chance}{draws}"
    )


def _mean_share_assumption(outcome: Outcome, alone: str) -> str:
    """Say what the bound of mean shares is of."""
    held_out, confidence = outcome.context.data.held_out, outcome.context.options.confidence
    assert held_out is not None
    return (
        f"eps bounds, with a confidence of {100 * confidence:g} % for each group, the relative error of a layer's "
        "output in the mean square: the root mean square, over inputs, outputs and positions, of what its sums lose, "
        "over theirs on the samples that have ranked the channels; an error counts up to the root mean square of its "
        f"own output. Single sums and single inputs can be further off. {alone[0].upper()}{alone[1:]}. Measured on "
        f"{len(held_out)} held-out samples; assumed: these are drawn independently of each other, like inputs of use"
    )


def _notes(
    outcomes: Sequence[Outcome], outcome: Outcome, groups: Sequence[Sequence[GroupReport]], verified: Verification
) -> list[str]:
    """List what the user should know: of the run, of all parts, and of the first that was scored."""
    context, options = outcomes[0].context, outcomes[0].context.options
    notes = [*context.whole.source.notes]
    if verified.refused:
        notes.append(
            f"onnxruntime cannot load the file as it was given: {verified.refused}. What was measured and "
            "pruned is the same network in a form that it loads: nodes sorted, functions inlined, wrong records dropped"
        )
    if not isinstance(outcome.calibration, DataCalibration) and context.plan is None:
        notes.append(
            "no data: channels were chosen by weights alone (data-independent coreset scores). A few "
            "hundred unlabelled inputs do better: --calib-data FILE.npz, arrays keyed by input name, "
            "samples along the batch axis"
        )
    if context.data.given == "random":
        notes.append(
            "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs. Use "
            "this to try things out, never for a model that ships"
        )
    drift = verified.comparison.drift if verified.comparison else None
    if drift is not None and drift.lost:
        notes.append(
            f"the pruned model gives infinity or NaN in the place of {drift.lost:,} numbers of the original's outputs: "
            "keep more, or exclude what leads there"
        )
    if verified.comparison is not None and context.data.held_out is not None and context.data.given == "file":
        notes += filter(None, [trained_note(verified.comparison.outcomes.top_probability)])
    notes += draws_notes(context.whole.model)
    notes += context.data.notes
    for each, some in zip(outcomes, groups, strict=True):
        if each.samples < each.samples_wanted and any(group.promises_all for group in some):
            notes.append(each.named(_sample_note(each)))
    notes += _bound_notes([group for some in groups for group in some])
    if verified.oracle.blank:
        notes.append(
            "the original gives nothing but zeros on these inputs, so the comparison shows nothing: give other data"
        )
    if verified.growth:
        grown = verified.after.bytes - verified.before.bytes
        notes.append(f"the pruned file is larger than the original, by {grown:,} bytes: {verified.growth}")
    if context.plan is not None and outcome.samples == 0:
        notes.append("replayed without data: no means were folded into biases; give --calib-data for that")
    forced = [
        each.named(group.name)
        for each in outcomes
        for group, chosen in zip(each.context.whole.graph.groups, each.decision.selections, strict=False)
        if chosen is not None and chosen.requested != options.select
    ]
    if forced and options.select in {"sampled", "mixed"}:
        notes.append(
            f"{len(forced)} groups were selected deterministically, for their consumers' weights cannot "
            f"be scaled: {', '.join(forced[:3])}{', ...' if len(forced) > 3 else ''}"
        )
    if context.plan and context.plan.source_sha256 != context.whole.source.sha256:
        notes.append("the plan was made for another file; it fits this one by names and shapes")
    return notes


def _bound_notes(groups: Sequence[GroupReport]) -> list[str]:
    """Say where a bound from data says nothing, how large it is there, and what ranked the channels in its place."""
    with_data = [group for group in groups if group.ranked_by != "coreset"]
    bounded = [(group, group.epsilon) for group in with_data if group.epsilon is not None]
    vacuous = [(group, epsilon) for group, epsilon in bounded if epsilon >= 1]
    if not vacuous:
        return []
    largest = max(epsilon for _, epsilon in vacuous)
    how = "1" if largest == 1 else f"1 to {at_most(largest, 3)}"
    by_energy = sum(group.ranked_by == Energy.name for group, _ in vacuous)
    ranked = f"; the channels of {by_energy} of them were ranked by mean output energy" if by_energy else ""
    return [
        f"the bound of {len(vacuous)} of {len(bounded)} cut groups is vacuous (eps = {how}) at this target: it "
        f"promises nothing{ranked}"
    ]


def _sample_note(outcome: Outcome) -> str:
    failure = outcome.failure
    with_these = "these are too few for any probability"
    if not outcome.context.data.independent:
        with_these = f"no probability is known of these, for {DEPENDENT}"
    if failure is not None and failure < 1:
        with_these = (
            f"with these, the assumption of the bounds fails with a probability of at most {at_most(failure, 1)}"
        )
    given = f"{outcome.samples} {'samples' if outcome.part.body is None else 'runs of it'}"
    return (
        f"S: {given}; the size formula asks for {outcome.samples_wanted} at delta = "
        f"{outcome.context.options.delta:g}; {with_these}"
    )


def _versions() -> dict[str, str]:
    versions = {"onnxpfp": onnxpfp.__version__, "python": platform.python_version()}
    for name in ("onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
