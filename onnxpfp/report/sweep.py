"""The result of a sweep: what every model is, what it takes and what is promised of it, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor
from typing import Any

from onnxpfp.counted import counted
from onnxpfp.pipeline.verification import Size
from onnxpfp.report.classes import ClassReport, class_facts
from onnxpfp.report.comparison import ms
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Line, Table, Title, number, sizes, spent
from onnxpfp.report.pruning import Report
from onnxpfp.report.sweep_charts import sweep_plots

__all__ = ["SweepReport", "SweptModel", "pareto_optimal"]

FORMAT, VERSION = "onnxpfp-sweep", 1

_ASKED = {
    "keep_macs": "MACs asked for",
    "keep_params": "parameters asked for",
    "keep_size": "size asked for",
    "keep_latency": "latency asked for",
    "latency_ms": "ms asked for",
    "max_drift": "mean output error at most",
    "min_agreement": "top-1 agreement at least",
}
"""What was asked for, as the table calls it."""


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


@dataclass(frozen=True, slots=True)
class SweepReport:
    """Everything that is known about a sweep.

    Attributes:
        file: The original; None for a model that was given as an object.
        inputs: Input shapes of one run, at which MACs were counted.
        asked: The option whose values were the targets, such as keep_macs.
        before: Size of the original, without classes that went; None where no target was met.
        confidence: That of the promise about each model.
        models: What came of the targets, in the order in which they were given.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, of what was measured once and of all prunings.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    asked: str
    before: Size | None
    confidence: float
    models: tuple[SweptModel, ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where every target was met, else the largest of those of single prunings."""
        return max(each.exit_code for each in self.models)

    @property
    def classes(self) -> ClassReport | None:
        """The classes that stay, the same in all models; None where all do, or no target was met."""
        return next((each.report.classes for each in self.models if each.report), None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/sweep.md` describes the fields."""
        best = pareto_optimal(self.models, self.asked)
        points = [{**each.point(self.asked), "pareto": each in best} for each in self.models]
        reports = [None if each.report is None else each.report.to_dict() for each in self.models]
        document = {
            "file": self.file,
            "inputs": self.inputs,
            "asked": self.asked,
            "before": None if self.before is None else asdict(self.before),
            "confidence": self.confidence,
            "points": points,
            "providers": self.providers,
            "seconds": self.seconds,
            "notes": self.notes,
        }
        return {"format": FORMAT, "version": VERSION, **plain(document), "reports": reports}

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show the models side by side, and the targets that were not met."""
        made = sum(each.report is not None for each in self.models)
        yield Title(f"{self.file or 'the model'}: {made} of {counted(len(self.models), 'model')}")
        yield from sweep_plots(self.models, pareto_optimal(self.models, self.asked), self.asked)
        yield self._table()
        for each in self.models:
            if each.reason:
                yield Line(f"{each.title}: {each.reason}")
        if any(each.error is not None for each in self.models):
            yield Line("best: no other of these models has as little of what was asked for and as small an error")
        yield Facts(self._facts())

    def _table(self) -> Table:
        best = pareto_optimal(self.models, self.asked)
        promised = any(each.promised_agreement is not None for each in self.models)
        timed = any(each.latency is not None for each in self.models)
        titles = ["MACs", "parameters", "bytes", *["latency"] * timed, "error", "top-1", *["promised"] * promised]
        rows: list[tuple[str, ...]] = []
        if self.before is not None:
            counts = (f"{count:,}" for count in (self.before.macs, self.before.params, self.before.bytes))
            rows.append(
                (
                    "original" if self.classes is None else "kept classes",
                    *counts,
                    *[_first_ms(self.models)] * timed,
                    "-",
                    "-",
                    *["-"] * promised,
                    "",
                    (self.file or "") if self.classes is None else "",
                )
            )
        rows += [
            (
                f"{each.target:.15g}",
                *_left(each.report),
                *[_percent(each.latency)] * timed,
                "-" if each.error is None else f"{each.error:.3g}",
                _percent(each.agreement),
                *[_at_least(each.promised_agreement)] * promised,
                "*" if each in best else "",
                each.file or ("" if each.report is not None else "not made"),
            )
            for each in self.models
        ]
        columns = (Column(_ASKED[self.asked]), *map(number, titles), Column("best"), Column("file"))
        return Table(columns, rows, tight=False)

    def _facts(self) -> dict[str, str]:
        rows = {} if self.classes is None else class_facts(self.classes)
        rows |= {"counted at": sizes(self.inputs) or "no inputs", "ran on": ", ".join(self.providers)}
        drift = next((each.report.drift for each in self.models if each.report and each.report.drift), None)
        if drift is not None:
            rows["error, top-1"] = f"on {drift.samples} {'held-out ' * drift.held_out}samples"
        promised = sum(each.promised_agreement is not None for each in self.models)
        if promised:
            confidence = f"{100 * self.confidence:.4g} %"
            all_of_them = max(0.0, 1 - promised * (1 - self.confidence))
            them = "both" if promised == 2 else f"all {promised}"
            together = f"; {them} hold together with at least {100 * all_of_them:.4g} %" if promised > 1 else ""
            rows["promised"] = f"at least this share of inputs keep their top-1 class, each with {confidence}{together}"
        return rows | {"seconds": spent(self.seconds)}


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


def _left(report: Report | None) -> tuple[str, ...]:
    """Write what is left of the MACs, the parameters and the bytes."""
    if report is None:
        return ("-",) * 3
    before, after = report.before, report.after
    counts = ((before.macs, after.macs), (before.params, after.params), (before.bytes, after.bytes))
    return tuple(f"{100 * left / max(whole, 1):.1f} %" for whole, left in counts)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _at_least(share: float | None) -> str:
    """Write a promise: rounded up it would be more than was promised."""
    return "-" if share is None else f"{floor(1000 * share + 1e-9) / 10:.1f} %"


def _first_ms(models: Sequence[SweptModel]) -> str:
    """Write the latency of the original, as it was measured beside the first model."""
    found = (each.report.latency.original for each in models if each.report and each.report.latency)
    return next((f"{ms(each.median_ms)} ms" for each in found if each is not None), "-")
