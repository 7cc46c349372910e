"""One target of a sweep and what came of it, and which models no other is better than."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxpfp.report.pruning import Report

__all__ = ["SweptModel", "pareto_optimal"]


@dataclass(frozen=True, slots=True, eq=False)
class SweptModel:
    """One target, and what came of it.

    Attributes:
        target: What was asked for.
        title: The same as names of files have it.
        file: Where the model was written; None where there is none.
        report: The report of the pruning; None where there is no model.
        reason: Why there is none, with what can be done about it; else empty.
        exit_code: That of a pruning to this target alone.
    """

    target: float
    title: str
    file: str | None
    report: Report | None
    reason: str = ""
    exit_code: int = 0

    @property
    def error(self) -> float | None:
        """How far the outputs are from the original's: the relative error, or the share of integers that differ."""
        drift = None if self.report is None else self.report.drift
        if drift is None:
            return None
        return drift.differing if drift.relative_error is None else drift.relative_error

    @property
    def agreement(self) -> float | None:
        """Share of samples that keep their class; None where that was not measured."""
        return None if self.report is None or self.report.drift is None else self.report.drift.top1_agreement

    @property
    def promised_agreement(self) -> float | None:
        """Share of inputs that keep their class, as held-out samples promise it; None where they promise nothing."""
        if self.report is None or self.report.promises is None:
            return None
        if self.report.certified is not None and "min_agreement" in self.report.target:
            # Of several shares one was chosen: what is promised is what was asked for.
            return self.report.target["min_agreement"]
        agreement = self.report.promises.agreement
        return None if agreement is None else agreement.at_least

    @property
    def latency(self) -> float | None:
        """Latency over the original's, as it was measured of the written model; None where it was not."""
        found = None if self.report is None else self.report.latency
        return None if found is None or found.ratio is None else found.ratio.median

    def cost(self, name: str) -> float | None:
        """Return the share that is left of what a target counts."""
        if self.report is None:
            return None
        if name in {"keep_latency", "latency_ms"}:
            target = self.report.latency_target
            return self.latency if self.latency is not None else None if target is None else target.foreseen
        before, after = self.report.before, self.report.after
        counted = {"keep_params": "params", "keep_size": "bytes"}.get(name, "macs")
        return getattr(after, counted) / max(getattr(before, counted), 1)

    def point(self, name: str) -> dict[str, Any]:
        """Return the figures of a chart or a table, by name."""
        report = self.report
        after = None if report is None else report.after
        latency = None if report is None or report.latency is None else report.latency.pruned
        return {
            "target": self.target,
            "title": self.title,
            "file": self.file,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "share": self.cost(name),
            "params": None if after is None else after.params,
            "macs": None if after is None else after.macs,
            "bytes": None if after is None else after.bytes,
            "latency_ms": None if latency is None else latency.median_ms,
            "latency_ratio": self.latency,
            "error": self.error,
            "agreement": self.agreement,
            "promised_agreement": self.promised_agreement,
        }


def pareto_optimal(models: Sequence[SweptModel], asked: str) -> list[SweptModel]:
    """Return the models of which no other costs as little and has as small an error, and less of one of both.

    Args:
        models: What came of the targets.
        asked: The option that says what counts as cost.
    """
    known = [
        (cost, error, each)
        for each in models
        if (cost := each.cost(asked)) is not None and (error := each.error) is not None
    ]
    return [
        each
        for cost, error, each in known
        if not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e, _ in known)
    ]
