"""Assemble the report from what the pipeline outcome."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import onnxpfp
from onnxpfp.allocation.search import SearchResult
from onnxpfp.allocation.select import Selection
from onnxpfp.channels import Analysis
from onnxpfp.lossless import Removal
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import CalibrationData
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.scoring import Calibration
from onnxpfp.pipeline.verification import Verification
from onnxpfp.refit.means import Compensation
from onnxpfp.report.pruning import GroupReport, Report
from onnxpfp.score.pfp import K
from onnxpfp.score.scores import Scores

__all__ = ["Outcome", "build_report"]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the stages of the pipeline handed on, in their order."""

    analysis: Analysis
    data: CalibrationData
    options: Options
    calibration: Calibration
    decision: Decision
    removed: tuple[Removal, ...]
    compensation: Compensation | None
    verified: Verification
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    replayed: Plan | None
    search_result: SearchResult | None

    @property
    def scores(self) -> Scores | None:
        """One score per channel; None where a plan was replayed without data."""
        return self.calibration.scores

    @property
    def selections(self) -> tuple[Selection, ...]:
        """How each group was selected; empty for a plan or where everything stays."""
        return self.decision.selections

    @property
    def samples(self) -> int:
        """Samples that the calibration has used."""
        return len(self.calibration.seen) if self.calibration.statistics is not None else 0


def build_report(outcome: Outcome) -> Report:
    """Build the report."""
    quantity, share = outcome.options.target
    if outcome.replayed is not None:
        method, target = "plan", {}
    else:
        method = outcome.scores.method if outcome.scores is not None else "none"
        asked = {"max_drift": outcome.options.max_drift, "min_agreement": outcome.options.min_agreement}
        target = {name: value for name, value in asked.items() if value is not None} or {quantity: share}
    reached, total = outcome.analysis.graph.reachable_params()
    compensation = outcome.compensation
    return Report(
        before=outcome.verified.before,
        after=outcome.verified.after,
        inputs=outcome.analysis.shapes.inputs,
        target=target,
        trials=outcome.search_result.trials if outcome.search_result else (),
        reachable=reached / max(total, 1),
        method=method,
        allocation=outcome.options.allocation(outcome.calibration.known),
        compensation=outcome.options.compensation(outcome.calibration.known),
        steps=outcome.options.steps,
        attention=outcome.options.attention,
        samples=outcome.samples,
        samples_wanted=outcome.calibration.wanted,
        groups=_groups(outcome),
        removed=outcome.removed,
        skipped=outcome.analysis.graph.fixed,
        oracle=outcome.verified.oracle,
        drift=outcome.verified.drift,
        refits=compensation.refits if compensation else (),
        compensated=compensation.folded if compensation else (),
        uncompensated=compensation.left if compensation else (),
        providers=outcome.providers,
        seconds=dict(outcome.seconds),
        versions=_versions(),
        notes=tuple(_notes(outcome)),
    )


def _assumption(outcome: Outcome) -> str:
    """Say what the bounds of a group rest on."""
    if outcome.samples == 0:
        return "weights alone: worst case over inputs of bounded norm, no statement about your data"
    kernel = "" if outcome.options.kernel == "sum" else " x kernel size, for --kernel max"
    return (
        f"K = {K}{kernel}: no unseen sample has a channel's share above K times the largest of the "
        f"{outcome.samples} samples seen; delta = {outcome.options.delta:g}; per layer"
    )


def _groups(outcome: Outcome) -> tuple[GroupReport, ...]:
    graph = outcome.analysis.graph
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = outcome.selections[number] if outcome.selections else None
        kept = int(outcome.decision.keep[group.channels].sum())
        scores = outcome.scores
        total = float(scores.sensitivity[group.channels].sum()) if scores is not None else 0.0
        reports.append(
            GroupReport(
                name=group.name,
                channels=int(group.channels.size),
                kept=kept,
                sensitivity_sum=total,
                epsilon_deterministic=chosen.epsilon.deterministic if chosen else 0.0,
                epsilon_sampled=chosen.epsilon.sampled if chosen else 0.0,
                epsilon_mixed=chosen.epsilon.mixed if chosen else 0.0,
                selection=_selected(chosen) if chosen else ("plan" if outcome.replayed else "all"),
                assumption=_assumption(outcome),
                consumers=tuple(graph.consumers[c].name for c in group.consumers),
            )
        )
    return tuple(reports)


def _selected(chosen: Selection) -> str:
    return f"{chosen.variant}, by energy" if chosen.tie_broken else chosen.variant


def _notes(outcome: Outcome) -> list[str]:
    notes: list[str] = []
    if outcome.data.given == "none" and outcome.replayed is None:
        notes.append(
            "no data: channels were chosen by weights alone (data-independent coreset scores). A few "
            "hundred unlabelled inputs do better: --calib-data FILE.npz, arrays keyed by input name, "
            "axis 0 = samples"
        )
    if outcome.data.given == "random":
        notes.append(
            "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs. Use "
            "this to try things out, never for a model that ships"
        )
    if outcome.samples < outcome.calibration.wanted:
        notes.append(_sample_note(outcome))
    vacuous = [s for s in outcome.selections if not s.keep.all() and s.epsilon.of(s.variant) >= 1]
    if outcome.scores is not None and outcome.scores.method == "pfp" and vacuous:
        cut = sum(not s.keep.all() for s in outcome.selections)
        notes.append(
            f"the bound of {len(vacuous)} of {cut} cut groups is vacuous (eps = 1) at this target: it promises "
            "nothing, and their channels were ranked by mean output energy"
        )
    if outcome.verified.oracle.blank:
        notes.append(
            "the original gives nothing but zeros on these inputs, so the comparison shows nothing: give other data"
        )
    if outcome.replayed is not None and outcome.samples == 0:
        notes.append("replayed without data: no means were folded into biases; give --calib-data for that")
    forced = [
        group.name
        for group, chosen in zip(outcome.analysis.graph.groups, outcome.selections, strict=False)
        if chosen.requested != outcome.options.select
    ]
    if forced and outcome.options.select in {"sampled", "mixed"}:
        notes.append(
            f"{len(forced)} groups were selected deterministically, for their consumers' weights cannot "
            f"be scaled: {', '.join(forced[:3])}{', ...' if len(forced) > 3 else ''}"
        )
    if outcome.replayed and outcome.replayed.source_sha256 != outcome.analysis.source.sha256:
        notes.append("the plan was made for another file; it fits this one by names and shapes")
    return notes


def _sample_note(outcome: Outcome) -> str:
    return (
        f"S: {outcome.samples} samples; the size formula asks for {outcome.calibration.wanted} at delta = "
        f"{outcome.options.delta:g}, so the bounds hold with less probability"
    )


def _versions() -> dict[str, str]:
    versions = {"onnxpfp": onnxpfp.__version__, "python": platform.python_version()}
    for name in ("onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
