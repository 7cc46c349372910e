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
from onnxpfp.report.swept import SweptModel, pareto_optimal

__all__ = ["SweepReport"]

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
