"""Assemble the report from what the stages of the pipeline handed on."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

import onnxpfp
from onnxpfp.allocation.select import Selection
from onnxpfp.channels.types import Fixed
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.promises import Promises, promises_of
from onnxpfp.lossless import Removal
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.low_rank.layers import scheme_of
from onnxpfp.options import Options
from onnxpfp.options.features import FEATURE_STATISTICS
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.footprint import reachable_params, staying_axes
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.pipeline.parts import Network
from onnxpfp.pipeline.quality_search import FoundShare
from onnxpfp.pipeline.quality_target import Certified
from onnxpfp.pipeline.verification import Verification
from onnxpfp.refit.means import Record
from onnxpfp.report.assumptions import assumption_of, assumption_of_error, why_without_bounds
from onnxpfp.report.classes import class_report
from onnxpfp.report.group_details import curve_of, scores_of
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.latency_target import latency_notes
from onnxpfp.report.notes import notes_of
from onnxpfp.report.outcome import Outcome
from onnxpfp.report.pruning import BodyReport, Report
from onnxpfp.report.ranks import RankReport
from onnxpfp.report.sensitivities import sensitivities_of
from onnxpfp.score.energy import Energy

__all__ = ["build_report"]


def build_report(
    network: Network,
    outcomes: Sequence[Outcome],
    verified: Verification,
    found: FoundShare | None,
    certified: Certified | None,
    latency: LatencyFindings | None,
    latency_target: LatencyTarget | None,
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
        latency_target: The target of latency, and how it was reached; None where there was none.
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
        asked = {
            "max_drift": options.max_drift,
            "min_agreement": options.min_agreement,
            "size": options.keep_size,
        }
        share_kept = {} if options.sets_widths else {quantity: share}
        target = {name: value for name, value in asked.items() if value is not None} or share_kept
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
        latency_target=latency_target,
        trials=found.searched.trials if found else (),
        tests=found.descent.tests if found else (),
        confidence=options.confidence,
        certified=certified,
        reachable=sum(reached for reached, _ in reachable) / max(sum(total for _, total in reachable), 1),
        method=method,
        settings=_settings(options) if context.chooses else {},
        allocation=context.allocation,
        structure=options.structure if context.chooses else "",
        alignment=context.alignment if context.chooses else None,
        compensation=context.compensation,
        steps=options.steps,
        attention=options.attention,
        samples=first.samples,
        samples_of=first.part.place,
        samples_wanted=first.samples_wanted,
        samples_failure=failure if failure is not None and failure < 1 else None,
        groups=tuple(group for some in groups for group in some),
        ranked=tuple(rank for outcome in outcomes for rank in _ranks(outcome)),
        ranks_by=outcomes[0].decision.ranks_by if outcomes[0].decision.ranked else "",
        rank_weight=outcomes[0].decision.rank_weight if outcomes[0].decision.chooses_ranks else None,
        removed=tuple(removal for outcome in outcomes for removal in _removed(outcome)),
        fillers=sum(outcome.lossless.fillers for outcome in outcomes),
        subnormal=_subnormal(outcomes, unchanged=unchanged),
        skipped=tuple(fixed for outcome in outcomes for fixed in _skipped(outcome)),
        bodies=_bodies(network, outcomes, verified),
        classes=None if context.classes is None else class_report(context.classes),
        oracle=verified.oracle,
        drift=drift,
        promises=promises,
        layers=verified.layers,
        latency=latency,
        merged=tuple(each.named(name) for each, made in compensations for name in made.merged),
        fitted=tuple(each.named(name) for each, made in compensations for name in made.fitted),
        refits=tuple(replace(r, name=each.named(r.name)) for each, made in compensations for r in made.refits),
        compensated=tuple(each.named(name) for each, made in compensations for name in made.folded),
        uncompensated=tuple((each.named(name), why) for each, made in compensations for name, why in made.left),
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        versions=_versions(),
        notes=tuple(
            dict.fromkeys(
                [
                    *notes_of(outcomes, first, groups, verified),
                    *_slower(latency),
                    *latency_notes(latency, latency_target, options.threads, context.alignment.step),
                ]
            )
        ),
    )


def _settings(options: Options) -> dict[str, float | str]:
    """List what was said about the criterion."""
    if options.score != FEATURE_STATISTICS:
        return {}
    given = {"dfs": options.dfs, "dfs_threshold": options.dfs_threshold, "sfs": options.sfs, "maps": options.maps}
    return {name: value for name, value in given.items() if value is not None}


def _promises(context: RunContext, verified: Verification) -> Promises | None:
    """Promise what the held-out samples tell; nothing where they are noise, or have decided freely."""
    comparison, candidates = verified.comparison, verified.candidates
    if comparison is None or context.data.no_promise or not candidates:
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
    refitted |= set(compensation.fitted) if compensation else set[str]()
    folded = set(compensation.folded) if compensation else set[str]()
    merged = set(compensation.merged) if compensation else set[str]()
    sensitivities = sensitivities_of(outcome, graph.groups)
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = selections[number] if selections else None
        consumers = tuple(graph.consumers[c].name for c in group.consumers)
        stays = decision.keep[group.channels]
        # Channels as they were scored, each once: several may have become one.
        scored = np.setdiff1d(current[group.channels], [0])
        cut = bool(((current[group.channels] != 0) & ~stays).any())
        sensitive = chosen is not None and not chosen.unbounded
        went = not stays.any()
        neither = why_without_bounds(outcome, chosen, cut=cut, went=went)
        reason = neither or (chosen.unbounded if chosen else "")
        bound = chosen.bound if chosen and not reason else None
        no_error = neither or (chosen.no_choice_error if chosen else "")
        reports.append(
            GroupReport(
                name=outcome.named(group.name),
                channels=int(group.channels.size),
                kept=int(stays.sum()),
                sensitivity_sum=float(calibration.scores.values[scored].sum()) if sensitive else None,
                epsilon=bound if not calibration.scores.additive else None,
                no_epsilon=reason,
                additive_bound=bound if calibration.scores.additive else None,
                choice_error=chosen.choice_error if chosen and not no_error else None,
                no_choice_error=no_error,
                ranked_by=_ranking(outcome, chosen) if cut and not went else "",
                widths_by=_width_rule(outcome, number)
                if cut and (chosen or (went and outcome.context.plan is None))
                else "",
                selection=_selection(outcome, chosen, went=went),
                refitted=tuple(outcome.named(name) for name in consumers if name in refitted),
                merged=tuple(outcome.named(name) for name in consumers if name in merged),
                folded=tuple(outcome.named(name) for name in consumers if name in folded),
                assumption="" if reason else assumption_of(outcome, chosen),
                error_assumption="" if no_error else assumption_of_error(outcome),
                consumers=tuple(map(outcome.named, consumers)),
                sensitivities=sensitivities[number],
                scores=scores_of(outcome, chosen, group.channels),
                gone=tuple(np.flatnonzero(~stays).tolist()),
                curve=curve_of(outcome, group.channels),
                share=outcome.context.shares[number].share if number in outcome.context.shares else None,
            )
        )
    return tuple(reports)


def _ranks(outcome: Outcome) -> Iterator[RankReport]:
    for each in outcome.decision.ranked:
        use, scheme = each.layer.uses[0], scheme_of(each.layer, each.choice.cut)
        yield RankReport(outcome.named(use.name), use.consumer.op, scheme, each.choice.rank, each.kept)


def _selection(outcome: Outcome, chosen: Selection | None, *, went: bool) -> str:
    """Say what decided on a group."""
    if outcome.context.plan is not None:
        return "plan"
    if went:
        return "block"
    if chosen is None:
        return "lossless" if outcome.context.chooses else "all"
    return chosen.variant


def _width_rule(outcome: Outcome, number: int) -> str:
    """Name what set the width of a group."""
    return "share" if number in outcome.context.shares else outcome.context.allocation


def _ranking(outcome: Outcome, chosen: Selection | None) -> str:
    """Name what ranked the channels of a group."""
    if chosen is None:
        return "plan"
    return Energy.name if chosen.tie_broken else outcome.calibration.scores.method


def _versions() -> dict[str, str]:
    versions = {"onnxpfp": onnxpfp.__version__, "python": platform.python_version()}
    for name in ("onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
