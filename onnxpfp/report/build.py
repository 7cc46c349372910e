"""Assemble the report from what the stages of the pipeline handed on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import onnxpfp
from onnxpfp.allocation.search import SearchResult
from onnxpfp.allocation.select import Selection
from onnxpfp.channels.lineage import lifted
from onnxpfp.pipeline.calibration import Calibration, DataCalibration
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.lossless_step import LosslessStep
from onnxpfp.pipeline.verification import Verification
from onnxpfp.refit.means import Compensation, Record
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.page import at_most
from onnxpfp.report.pruning import Report
from onnxpfp.score.energy import Energy
from onnxpfp.score.pfp import K_TAIL, K

__all__ = ["Outcome", "build_report"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The results of the pipeline's stages, in their order."""

    context: RunContext
    calibration: Calibration
    decision: Decision
    lossless: LosslessStep
    compensation: Compensation | None
    verified: Verification
    search_result: SearchResult | None

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


def build_report(outcome: Outcome) -> Report:
    """Build the report."""
    context, options, graph = outcome.context, outcome.context.options, outcome.context.whole.graph
    quantity, share = options.target
    if context.plan is not None:
        method, target = "plan", {}
    else:
        method = outcome.calibration.scores.method
        asked = {"max_drift": options.max_drift, "min_agreement": options.min_agreement}
        target = {name: value for name, value in asked.items() if value is not None} or {quantity: share}
    reached, total = graph.reachable_params()
    compensation, groups = outcome.compensation, _groups(outcome)
    failure = outcome.failure
    return Report(
        before=outcome.verified.before,
        after=outcome.verified.after,
        inputs=context.whole.shapes.inputs,
        target=target,
        trials=outcome.search_result.trials if outcome.search_result else (),
        reachable=reached / max(total, 1),
        method=method,
        allocation=context.allocation,
        compensation=context.compensation,
        steps=options.steps,
        attention=options.attention,
        samples=outcome.samples,
        samples_wanted=outcome.samples_wanted,
        samples_failure=failure if failure is not None and failure < 1 else None,
        groups=groups,
        removed=outcome.lossless.removed,
        skipped=graph.fixed,
        oracle=outcome.verified.oracle,
        drift=outcome.verified.drift,
        refits=compensation.refits if compensation else (),
        compensated=compensation.folded if compensation else (),
        uncompensated=compensation.left if compensation else (),
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        versions=_versions(),
        notes=tuple(_notes(outcome, groups)),
    )


def _groups(outcome: Outcome) -> tuple[GroupReport, ...]:
    graph, selections = outcome.context.whole.graph, outcome.decision.selections
    calibration, decision, compensation = outcome.calibration, outcome.decision, outcome.compensation
    scores = lifted(calibration.scores.values, outcome.lossless.origin, graph.count)
    alive = np.isin(np.arange(graph.count + 1), outcome.lossless.origin)
    refits: Sequence[Record] = compensation.refits if compensation else ()
    refitted = {record.name for record in refits if record.after < record.before}
    folded = set(compensation.folded) if compensation else set[str]()
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = selections[number] if selections else None
        consumers = tuple(graph.consumers[c].name for c in group.consumers)
        stays = decision.keep[group.channels]
        cut = bool((alive[group.channels] & ~stays).any())
        bounded = chosen is not None and not chosen.unbounded
        reason = _without_bound(outcome, chosen, cut=cut)
        reports.append(
            GroupReport(
                name=group.name,
                channels=int(group.channels.size),
                kept=int(stays.sum()),
                sensitivity_sum=float(scores[group.channels].sum()) if bounded else None,
                epsilon=chosen.bound if chosen and not reason else None,
                no_epsilon=reason,
                ranked_by=_ranking(outcome, chosen) if cut else "",
                widths_by=outcome.context.allocation if chosen and cut else "",
                selection=chosen.variant if chosen else ("plan" if outcome.context.plan else "all"),
                refitted=tuple(name for name in consumers if name in refitted),
                folded=tuple(name for name in consumers if name in folded),
                assumption="" if reason else _assumption(outcome, chosen),
                consumers=consumers,
            )
        )
    return tuple(reports)


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
    """Say what the bound of a group is of, and rests on."""
    calibration, options = outcome.calibration, outcome.context.options
    draws = ""
    if chosen is not None and chosen.draws:
        draws = f"; for one input, it fails with a probability of at most {options.delta:g} over the draws"
    after = {"lstsq": ", before the refit", "bias": ", before means were folded"}.get(outcome.context.compensation, "")
    alone = f"of the choice alone{after}, layer by layer, each with the inputs that it has in the original"
    if not isinstance(calibration, DataCalibration):
        return (
            "weights alone: eps bounds how far the choice moves any sum of a layer that reads the group, as a share of "
            f"the most that its channels can add up to there for inputs of the same norm: {alone}. It says nothing of "
            f"the sum's own size on your data{draws}"
        )
    kernel = "" if options.kernel == "sum" else " times the entries that a channel has in a window, for --kernel max,"
    failure = calibration.failure
    chance = "not known to be below 1"
    if failure is not None and failure < 1:
        chance = f"at most {at_most(failure, 1)} (8 eta eta* exp(-n/{K_TAIL}))"
    return (
        "eps bounds the relative error of each sign part of a layer's sums (by the signs of weight and input); of the "
        f"sums themselves it can be more, where the parts cancel. {alone[0].upper()}{alone[1:]}. Assumed: no channel's "
        f"share of a sum is ever above K = {K}{kernel} times the largest of the {calibration.samples} samples seen; "
        f"the probability that these are too few for that, by PFP's formula: {chance}{draws}"
    )


def _notes(outcome: Outcome, groups: Sequence[GroupReport]) -> list[str]:
    context, options, selections = outcome.context, outcome.context.options, outcome.decision.selections
    notes: list[str] = []
    if not isinstance(outcome.calibration, DataCalibration) and context.plan is None:
        notes.append(
            "no data: channels were chosen by weights alone (data-independent coreset scores). A few "
            "hundred unlabelled inputs do better: --calib-data FILE.npz, arrays keyed by input name, "
            "axis 0 = samples"
        )
    if context.data.given == "random":
        notes.append(
            "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs. Use "
            "this to try things out, never for a model that ships"
        )
    if outcome.samples < outcome.samples_wanted and any(group.epsilon is not None for group in groups):
        notes.append(_sample_note(outcome))
    notes.extend(_bound_notes(groups))
    if outcome.verified.oracle.blank:
        notes.append(
            "the original gives nothing but zeros on these inputs, so the comparison shows nothing: give other data"
        )
    if context.plan is not None and outcome.samples == 0:
        notes.append("replayed without data: no means were folded into biases; give --calib-data for that")
    forced = [
        group.name
        for group, chosen in zip(context.whole.graph.groups, selections, strict=False)
        if chosen.requested != options.select
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
    if failure is not None and failure < 1:
        with_these = (
            f"with these, the assumption of the bounds fails with a probability of at most {at_most(failure, 1)}"
        )
    return (
        f"S: {outcome.samples} samples; the size formula asks for {outcome.samples_wanted} at delta = "
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
