"""Assemble the report from what the pipeline found."""

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
from onnxpfp.score.scores import Scores

__all__ = ["Outcome", "build_report"]

K = 3
"""The constant K of the bounds, as in the authors' code."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the stages of the pipeline handed on, in their order."""

    analysis: Analysis
    data: CalibrationData
    options: Options
    evidence: Calibration
    decision: Decision
    removed: tuple[Removal, ...]
    compensation: Compensation | None
    verified: Verification
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    replayed: Plan | None
    sought: SearchResult | None

    @property
    def scores(self) -> Scores | None:
        """One score per channel; None where a plan was replayed without data."""
        return self.evidence.scores

    @property
    def selections(self) -> tuple[Selection, ...]:
        """How each group was selected; empty for a plan or where everything stays."""
        return self.decision.selections

    @property
    def samples(self) -> int:
        """Samples that the calibration has used."""
        return len(self.evidence.seen) if self.evidence.statistics is not None else 0


def build_report(found: Outcome) -> Report:
    """Build the report."""
    quantity, share = found.options.target
    if found.replayed is not None:
        method, target = "plan", {}
    else:
        method = found.scores.method if found.scores is not None else "none"
        asked = {"max_drift": found.options.max_drift, "min_agreement": found.options.min_agreement}
        target = {name: value for name, value in asked.items() if value is not None} or {quantity: share}
    reached, total = found.analysis.graph.reachable_params()
    compensation = found.compensation
    return Report(
        before=found.verified.before,
        after=found.verified.after,
        inputs=found.analysis.shapes.inputs,
        target=target,
        trials=found.sought.trials if found.sought else (),
        reachable=reached / max(total, 1),
        method=method,
        allocation=found.options.allocation(found.evidence.known),
        compensation=found.options.compensation(found.evidence.known),
        steps=found.options.steps,
        attention=found.options.attention,
        samples=found.samples,
        samples_wanted=found.evidence.wanted,
        groups=_groups(found),
        removed=found.removed,
        skipped=found.analysis.graph.fixed,
        oracle=found.verified.oracle,
        drift=found.verified.drift,
        refits=compensation.refits if compensation else (),
        compensated=compensation.folded if compensation else (),
        uncompensated=compensation.left if compensation else (),
        providers=found.providers,
        seconds=dict(found.seconds),
        versions=_versions(),
        notes=tuple(_notes(found)),
    )


def _assumption(found: Outcome) -> str:
    """Say what the bounds of a group rest on."""
    if found.samples == 0:
        return "weights alone: worst case over inputs of bounded norm, no statement about your data"
    kernel = "" if found.options.kernel == "sum" else " x kernel size, for --kernel max"
    return (
        f"K = {K}{kernel}: no unseen sample has a channel's share above K times the largest of the "
        f"{found.samples} samples seen; delta = {found.options.delta:g}; per layer"
    )


def _groups(found: Outcome) -> tuple[GroupReport, ...]:
    graph = found.analysis.graph
    reports: list[GroupReport] = []
    for number, group in enumerate(graph.groups):
        chosen = found.selections[number] if found.selections else None
        kept = int(found.decision.keep[group.channels].sum())
        scores = found.scores
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
                selection=_selected(chosen) if chosen else ("plan" if found.replayed else "all"),
                assumption=_assumption(found),
                consumers=tuple(graph.consumers[c].name for c in group.consumers),
            )
        )
    return tuple(reports)


def _selected(chosen: Selection) -> str:
    return f"{chosen.variant}, by energy" if chosen.tie_broken else chosen.variant


def _notes(found: Outcome) -> list[str]:
    notes: list[str] = []
    if found.data.given == "none" and found.replayed is None:
        notes.append(
            "no data: channels were chosen by weights alone (data-independent coreset scores). A few "
            "hundred unlabelled inputs do better: --calib-data FILE.npz, arrays keyed by input name, "
            "axis 0 = samples"
        )
    if found.data.given == "random":
        notes.append(
            "RANDOM data: the sensitivities and the drift are those of noise, not of your inputs. Use "
            "this to try things out, never for a model that ships"
        )
    if found.samples < found.evidence.wanted:
        notes.append(_sample_note(found))
    vacuous = [s for s in found.selections if not s.keep.all() and s.epsilon.of(s.variant) >= 1]
    if found.scores is not None and found.scores.method == "pfp" and vacuous:
        cut = sum(not s.keep.all() for s in found.selections)
        notes.append(
            f"the bound of {len(vacuous)} of {cut} cut groups is vacuous (eps = 1) at this target: it promises "
            "nothing, and their channels were ranked by mean output energy"
        )
    if found.verified.oracle.blank:
        notes.append(
            "the original gives nothing but zeros on these inputs, so the comparison shows nothing: give other data"
        )
    if found.replayed is not None and found.samples == 0:
        notes.append("replayed without data: no means were folded into biases; give --calib-data for that")
    forced = [
        group.name
        for group, chosen in zip(found.analysis.graph.groups, found.selections, strict=False)
        if chosen.requested != found.options.select
    ]
    if forced and found.options.select in {"sampled", "mixed"}:
        notes.append(
            f"{len(forced)} groups were selected deterministically, for their consumers' weights cannot "
            f"be scaled: {', '.join(forced[:3])}{', ...' if len(forced) > 3 else ''}"
        )
    if found.replayed and found.replayed.source_sha256 != found.analysis.source.sha256:
        notes.append("the plan was made for another file; it fits this one by names and shapes")
    return notes


def _sample_note(found: Outcome) -> str:
    return (
        f"S: {found.samples} samples; the size formula asks for {found.evidence.wanted} at delta = "
        f"{found.options.delta:g}, so the bounds hold with less probability"
    )


def _versions() -> dict[str, str]:
    found = {"onnxpfp": onnxpfp.__version__, "python": platform.python_version()}
    for name in ("onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
