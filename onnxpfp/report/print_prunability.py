"""Prunability for people, as tables on a console: the most fragile group first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxpfp.pipeline.prunability_curves import Point
from onnxpfp.report.prunability import GroupPrunability, PrunabilityReport
from onnxpfp.report.tables import facts, heading, indented, more, print_clean, spent

__all__ = ["print_prunability", "sketch"]

LEVELS = "▁▂▃▄▅▆▇█"
"""From an eighth of the tolerance to more than eight times it; each step doubles."""
WITHIN = 4
"""So many of them are within the tolerance."""
_WIDTHS = {
    "measured": "widths by the measured drift of the output",
    "bound": "widths by one error bound",
    "uniform": "one share of every group",
}


def print_prunability(report: PrunabilityReport, console: Console, *, top: int | None) -> None:
    """Print how little of a model can be kept.

    Args:
        report: What was measured.
        console: Where to.
        top: Most groups; None shows all.
    """
    print_clean(console, lambda: _print_sections(report, console, top))


def sketch(points: Sequence[Point], tolerance: float) -> str:
    """Draw the losses of a curve, one letter each, without the point at which everything is kept."""
    return "".join(LEVELS[_level(point.loss / tolerance)] for point in points if point.share < 1)


def _level(ratio: float) -> int:
    """Return 0 for up to an eighth of the tolerance, 3 for up to the tolerance, 7 for more than eight times it."""
    if not ratio <= 2 ** (len(LEVELS) - WITHIN):
        return len(LEVELS) - 1
    return max(0, math.ceil(math.log2(ratio)) + WITHIN - 1) if ratio > 0 else 0


def _print_sections(report: PrunabilityReport, console: Console, top: int | None) -> None:
    title = f"{report.file or 'the model'}: what can be kept within a loss of {report.tolerance:g}"
    console.print(Text(title, style="bold"))
    console.print(facts(_facts(report)))
    console.print(heading("Whole network"))
    console.print(_network(report))
    console.print(heading("Groups of channels, the most fragile first"))
    console.print(_groups(report.groups[:top], report.tolerance))
    more(console, len(report.groups[top:]) if top else 0, "groups", "--all")
    console.print(
        indented(
            "each alone, at the widths measured, the widest first: "
            f"{LEVELS[WITHIN - 1]} and lower are within the tolerance, each step doubles the loss"
        )
    )


def _facts(report: PrunabilityReport) -> dict[str, str]:
    return {
        "whole network": _verdict(report),
        "loss": ", ".join(f"{kind} of '{name}'" for name, kind in report.losses.items()),
        "chosen by": f"score {report.score}, select {report.select}, {_WIDTHS[report.allocate]}",
        "compensation": f"{report.compensate}; {report.compensate_groups} for groups alone",
        "samples": f"{report.samples} to choose and fit by, {report.samples_groups} others for the groups, "
        f"{report.samples_network} others for the whole network",
        "counted at": ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in report.inputs.items()),
        "ran on": ", ".join(report.providers),
        "seconds": spent(report.seconds),
    }


def _verdict(report: PrunabilityReport) -> str:
    """Say how little is enough, and where that is only what was measured last."""
    network = report.network
    lowest = min(point.share for point in report.curve)
    bound = "at most " if network.smallest == lowest else ""
    broken = "" if network.unbroken == network.smallest else f", unbroken down to {100 * network.unbroken:.1f} %"
    return f"{bound}{100 * network.smallest:.1f} % of the {report.macs:,} MACs{broken}; area {network.area:.3g}"


def _network(report: PrunabilityReport) -> Table:
    table = Table(box=box.SIMPLE)
    for title in ("MACs kept", "loss"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for point in report.curve:
        verdict = "within" if point.loss <= report.tolerance else ""
        table.add_row(f"{100 * point.share:.1f} %", f"{point.loss:.4g}", verdict)
    return table


def _groups(groups: Sequence[GroupPrunability], tolerance: float) -> Table:
    table = Table(box=box.SIMPLE, collapse_padding=True)
    table.add_column("group", overflow="fold")
    for title in ("keeps", "share", "unbroken", "area", "MACs\nthen"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("loss", no_wrap=True)
    for group in groups:
        one = group.prunability
        then = next(point.macs for point in group.curve if point.share == one.smallest)
        table.add_row(
            group.name,
            f"{round(one.smallest * group.channels)}/{group.channels}",
            f"{100 * one.smallest:.1f} %",
            f"{100 * one.unbroken:.1f} %",
            f"{one.area:.3g}",
            f"{100 * then:.1f} %",
            sketch(group.curve, tolerance),
        )
    return table
