"""The report of a latency table: where the time of a network goes, and how little of it pruning could leave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.channels.name_patterns import name_inside
from onnxpfp.counted import counted
from onnxpfp.pipeline.latency.summary import LatencySummary, OpShare, PartLatency
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.report.charts import Bars, Curve, Plot, Series, Tile, Tiles
from onnxpfp.report.comparison import ms, threads_text
from onnxpfp.report.formats import plain
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, Table, Title, number, sizes, spent

__all__ = ["LatencyReport"]

FORMAT = "onnxpfp-latency"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
OUTSIDE = "outside of all ops"
FIRST = 20
"""Ops that are shown where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """The latency of a network and its ops, as a function of its widths.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run at which it was analysed.
        samples: Samples in a run whose latency counts.
        table: The table; of a form the latencies are still to be filled in.
        found: What the table says; None for a form.
        models: The folder with the models of a form; None where the latencies were measured.
        providers: Where onnxruntime really ran.
        seconds: Time by phase: load, shapes, channels, bodies, lossless, and latency table or, for a form, models.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    samples: int
    table: LatencyTable
    found: LatencySummary | None
    models: str | None
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the table in types that JSON knows; `docs/latency.md` describes the fields."""
        table, found = self.table, self.found
        return {
            "format": FORMAT,
            "version": VERSION,
            "file": self.file,
            "inputs": plain(self.inputs),
            "samples": self.samples,
            "device": table.device,
            "providers": list(self.providers),
            "threads": table.threads,
            "points": {place: len(part.points) for place, part in table.parts.items()},
            "models": self.models,
            "latency": None if found is None else plain(asdict(found)),
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show where the time goes; in `full` also every point that was measured."""
        yield from _form(self) if self.found is None else _measured(self, self.found, full=full)


def _form(report: LatencyReport) -> Iterator[Element]:
    """Show what is to be done with the models."""
    points = [point for part in report.table.parts.values() for point in part.points]
    yield Title(f"{report.file or 'the model'}: {counted(len(points), 'model')} to be timed in {report.models}")
    yield Facts(
        {
            "first, last": f"{points[0].model} is the whole network, {points[-1].model} the last",
            "to do": "time each on the device, write its milliseconds as 'ms' into the table, name the 'device', then "
            "prune with --latency-table",
            "counted at": sizes(report.inputs),
            "seconds": spent(report.seconds),
        }
    )


def _measured(report: LatencyReport, found: LatencySummary, *, full: bool) -> Iterator[Element]:
    """Show what was measured."""
    table, longest = report.table, _longest(found.parts)
    points = sum(len(part.points) for part in found.parts)
    least = math.ceil(1000 * found.least) / 1000
    runs = counted(report.samples, "sample") + " a run"
    yield Title(f"{report.file or 'the model'}: {ms(found.ms)} ms a run")
    rows = {
        "measured on": f"{table.device}, {', '.join(report.providers)}, {threads_text(table.threads)}",
        "at": f"{runs}; shapes {sizes(report.inputs)}",
        "points": f"{points} choices of widths, each run in turns with the whole" if points > 1 else "the whole alone",
        **({} if longest is None else _fitted(longest)),
        "least": f"about --keep-latency {least:g} ({ms(least * found.ms)} ms), by the fitted latencies at the "
        "smallest widths",
        "seconds": spent(report.seconds),
    }
    if longest is None:
        del rows["least"]
    least_share = (
        () if longest is None else (Tile("At the smallest widths", f"{100 * least:.1f} %", "foreseen", least),)
    )
    yield Tiles([Tile("Latency, ms", ms(found.ms), f"{runs}, {threads_text(table.threads)}"), *least_share])
    yield Facts(rows)
    yield Heading("Where the time goes, by the fitted latencies")
    yield _ops_chart(found.ops)
    yield _ops_table(found.ops)
    yield Line("at least: with as few channels in every group as may be")
    if len(found.parts) > 1:
        yield Heading("Parts")
        yield _parts_table(found.parts)
    if full:
        yield Heading("Points")
        yield from map(_points_chart, (part for part in found.parts if part.points[1:]))
        yield _points_table(found.parts)


def _longest(parts: Sequence[PartLatency]) -> PartLatency | None:
    """Return the part that takes most of those that were measured at several widths; None where there is none."""
    narrowed = [part for part in parts if part.points[1:]]
    return max(narrowed, key=lambda part: part.runs * part.ms, default=None)


def _fitted(part: PartLatency) -> dict[str, str]:
    """Say in what steps the kernels of a part work, how that shows, and how well its fit gives what was measured."""
    where = f"{part.place}: " if part.place else ""
    rows = {"kernels": f"{where}{part.alignment.title}"}
    if part.slower:
        each = [f"{_percent(slower)} in multiples of {multiple}" for multiple, slower in part.slower.items()]
        rows["slower by"] = f"{', '.join(each)}: time for what there is to do, over that of the fastest"
    rows["fit"] = (
        f"{where}the ops' latencies add up to those measured, within {_percent(part.error)} at every point used"
    )
    return rows


def _ops_chart(ops: Sequence[OpShare]) -> Bars:
    """Show the ops that take most, as many as a table begins with."""
    most = [op for op in ops if op.ms > 0][:FIRST]
    return Bars(
        "Ops that take most",
        [name_inside(op.place, op.name or OUTSIDE) for op in most],
        [
            Series("with all channels", [op.ms for op in most]),
            Series("at the smallest widths", [op.least_ms for op in most], faint=True),
        ],
        axis="ms of a run, fitted",
        unit="number",
        of="op",
    )


def _points_chart(part: PartLatency) -> Plot:
    """Show what was measured at each choice of widths, and what the fit makes of it."""
    labels = [f"multiples of {point.multiple}" if point.multiple else "whole" for point in part.points]
    measured = [(point.kept, point.ms) for point in part.points]
    fitted = [(point.kept, point.fitted_ms) for point in part.points]
    return Plot(
        f"Latency by channels kept{f', {part.place}' if part.place else ''}",
        across="channels kept",
        up="ms",
        curves=[
            Curve("measured", measured, labels, joined=False),
            Curve("fitted", fitted, labels, faint=True, joined=False),
        ],
    )


def _ops_table(ops: Sequence[OpShare]) -> Table:
    total = max(sum(op.ms for op in ops), 1e-30)
    rows = [
        (name_inside(op.place, op.name or OUTSIDE), op.op, ms(op.ms), _percent(op.ms / total), ms(op.least_ms))
        for op in ops
        if op.ms > 0
    ]
    columns = (Column("node"), Column("op"), *map(number, ("ms", "share", "at least")))
    return Table(columns, rows, of="ops", most=FIRST)


def _parts_table(parts: Sequence[PartLatency]) -> Table:
    rows = [
        (
            part.place or "main graph",
            f"{part.runs:.3g}",
            ms(part.ms),
            str(part.alignment.step) if part.points[1:] else "-",
            _percent(part.error) if part.points[1:] else "-",
        )
        for part in parts
    ]
    columns = (Column("part"), *map(number, ("runs", "ms a run", "step", "fit within")))
    return Table(columns, rows, of="parts")


def _points_table(parts: Sequence[PartLatency]) -> Table:
    rows = [
        (
            part.place or "main graph",
            str(point.multiple) if point.multiple else "whole",
            _percent(point.kept),
            ms(point.ms),
            ms(point.fitted_ms),
        )
        for part in parts
        for point in part.points
    ]
    columns = (Column("part"), *map(number, ("multiple", "channels", "ms", "fitted")))
    return Table(columns, rows, of="points")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
