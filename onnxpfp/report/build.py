"""Assemble the report from what the stages of the pipeline handed on."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import onnxpfp
from onnxpfp.allocation.search import SearchResult
from onnxpfp.allocation.select import Selection
from onnxpfp.channels.types import Fixed
from onnxpfp.lossless import Removal
from onnxpfp.pipeline.calibration import Calibration, DataCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.footprint import reachable_params, staying_axes
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.network_steps import MeasuredPart
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.verification import Verification
from onnxpfp.refit.means import Compensation
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.pruning import BodyReport, GroupReport, Report
from onnxpfp.score.pfp import K

__all__ = ["Outcome", "build_report"]


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

    def named(self, name: str) -> str:
        """Return the name of what is in this part, as a report calls it: behind the place of its body."""
        return self.part.analyzed.named(name)


def build_report(
    network: Network, outcomes: Sequence[Outcome], verified: Verification, search_result: SearchResult | None
) -> Report:
    """Build the report.

    Args:
        network: The parts, and the bodies that stay.
        outcomes: The results of every part; the first is the main graph.
        verified: The comparison with the original.
        search_result: The trials of a target of quality.
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
    return Report(
        before=verified.before,
        after=verified.after,
        inputs=context.whole.shapes.inputs,
        target=target,
        trials=search_result.trials if search_result else (),
        reachable=sum(reached for reached, _ in reachable) / max(sum(total for _, total in reachable), 1),
        method=method,
        allocation=context.allocation,
        compensation=context.compensation,
        steps=options.steps,
        attention=options.attention,
        samples=first.samples,
        samples_wanted=first.samples_wanted,
        groups=tuple(group for outcome in outcomes for group in _groups(outcome)),
        removed=tuple(removal for outcome in outcomes for removal in _removed(outcome)),
        skipped=tuple(fixed for outcome in outcomes for fixed in _skipped(outcome)),
        bodies=_bodies(network, outcomes, verified),
        oracle=verified.oracle,
        drift=verified.drift,
        refits=tuple(replace(r, name=each.named(r.name)) for each, made in compensations for r in made.refits),
        compensated=tuple(each.named(name) for each, made in compensations for name in made.folded),
        uncompensated=tuple((each.named(name), why) for each, made in compensations for name, why in made.left),
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        versions=_versions(),
        notes=tuple(dict.fromkeys(_notes(outcomes, first, verified))),
    )


def _removed(outcome: Outcome) -> Iterator[Removal]:
    return (replace(removal, group=outcome.named(removal.group)) for removal in outcome.lossless.removed)


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


def _assumption(outcome: Outcome) -> str:
    """Say what the bounds of a group rest on."""
    if outcome.samples == 0:
        return "weights alone: worst case over inputs of bounded norm, no statement about your data"
    options = outcome.context.options
    kernel = "" if options.kernel == "sum" else " x kernel size, for --kernel max"
    return (
        f"K = {K}{kernel}, which assumes that no unseen sample has a channel's share above K times the largest of the "
        f"{outcome.samples} samples seen; delta = {options.delta:g}; per layer"
    )


def _groups(outcome: Outcome) -> tuple[GroupReport, ...]:
    graph, selections = outcome.context.whole.graph, outcome.decision.selections
    sensitivity = outcome.lossless.lineage.lift(outcome.calibration.scores.sensitivity)
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = selections[number] if selections else None
        kept = int(outcome.decision.keep[group.channels].sum())
        reports.append(
            GroupReport(
                name=outcome.named(group.name),
                channels=int(group.channels.size),
                kept=kept,
                sensitivity_sum=float(sensitivity[group.channels].sum()),
                epsilon_deterministic=chosen.epsilon.deterministic if chosen else 0.0,
                epsilon_sampled=chosen.epsilon.sampled if chosen else 0.0,
                epsilon_mixed=chosen.epsilon.mixed if chosen else 0.0,
                selection=_selected(chosen) if chosen else _unselected(outcome),
                assumption=_assumption(outcome),
                consumers=tuple(graph.consumers[c].name for c in group.consumers),
            )
        )
    return tuple(reports)


def _unselected(outcome: Outcome) -> str:
    """Say what decided on a group that was not selected."""
    if outcome.context.plan is not None:
        return "plan"
    return "lossless" if outcome.context.chooses else "all"


def _selected(chosen: Selection) -> str:
    return f"{chosen.variant}, by energy" if chosen.tie_broken else chosen.variant


def _notes(outcomes: Sequence[Outcome], outcome: Outcome, verified: Verification) -> list[str]:
    """List what the user should know: of the run, of all parts, and of the first that was scored."""
    context, options = outcomes[0].context, outcomes[0].context.options
    selections = [s for each in outcomes for s in each.decision.selections if s is not None]
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
    drift = verified.drift
    if drift is not None and drift.lost:
        notes.append(
            f"the pruned model gives infinity or NaN in the place of {drift.lost:,} numbers of the original's outputs: "
            "keep more, or exclude what leads there"
        )
    notes += draws_notes(context.whole.model)
    notes += context.data.notes
    if outcome.samples < outcome.samples_wanted:
        notes.append(_sample_note(outcome))
    vacuous = [s for s in selections if not s.keep.all() and s.epsilon.of(s.variant) >= 1]
    if outcome.calibration.scores.method == "pfp" and vacuous:
        cut = sum(not s.keep.all() for s in selections)
        by_energy = sum(s.tie_broken for s in vacuous)
        ranked = f"; the channels of {by_energy} of them were ranked by mean output energy" if by_energy else ""
        notes.append(
            f"the bound of {len(vacuous)} of {cut} cut groups is vacuous (eps >= 1) at this target: it promises "
            f"nothing{ranked}"
        )
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


def _sample_note(outcome: Outcome) -> str:
    return (
        f"S: {outcome.samples} samples; the size formula asks for {outcome.samples_wanted} at delta = "
        f"{outcome.context.options.delta:g}, so the bounds hold with less probability"
    )


def _versions() -> dict[str, str]:
    versions = {"onnxpfp": onnxpfp.__version__, "python": platform.python_version()}
    for name in ("onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
