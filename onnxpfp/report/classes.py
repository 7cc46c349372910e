"""The classes that stay: what changes for whoever reads the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.channels.class_axes import ClassAxis
from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.counted import counted
from onnxpfp.data.class_names import METADATA_NAMES
from onnxpfp.pipeline.kept_classes import KeptClasses
from onnxpfp.report.page import finite

__all__ = ["ClassReport", "class_facts", "class_notes", "class_report"]

MOST = 8
"""Most classes, or ranges of them, that are shown."""


@dataclass(frozen=True, slots=True)
class ClassReport:
    """The classes that stay.

    Attributes:
        kept: Their numbers in the original, ascending: the first is class 0 now.
        names: Their names; none where they are not known.
        axes: Which indices of outputs were the classes, of the original.
        renormalised: Softmax nodes that are over the classes that stay now.
        params: Stored numbers of the weights, of the original and of what the classes leave.
        bytes: Size of the file, likewise.
        oracle: What the classes leave against the original without the others.
        stale_names: Whether the file's metadata goes on naming all classes.
    """

    kept: tuple[int, ...]
    names: tuple[str, ...]
    axes: tuple[ClassAxis, ...]
    renormalised: tuple[str, ...]
    params: tuple[int, int]
    bytes: tuple[int, int]
    oracle: Equivalence
    stale_names: bool


def class_report(classes: KeptClasses) -> ClassReport:
    """Say what went with the classes that were not asked for."""
    planned = classes.planned
    return ClassReport(
        planned.kept,
        tuple(classes.names[number] for number in planned.kept) if classes.names else (),
        planned.axes,
        classes.renormalised,
        classes.params,
        classes.bytes,
        classes.oracle,
        classes.stale_names,
    )


def class_facts(report: ClassReport) -> dict[str, str]:
    """Say what changes in the interface, and how well what stays was checked."""
    oracle, (before, after) = report.oracle, report.params
    runs = counted(oracle.runs, "run")
    rows = {
        "classes": f"{len(report.kept):,} of {report.axes[0].count:,} stay: {_numbering(report)}",
        "interface": "; ".join(_change(axis, len(report.kept)) for axis in report.axes),
        "without them": (
            f"{after:,} of {before:,} parameters are left, and their network is the original in all that follows; "
            "its outputs == those of the file without the other classes: "
            f"largest difference {finite(oracle.error)} of the largest output, {runs}"
        ),
    }
    if report.renormalised:
        nodes = ", ".join(f"'{name}'" for name in report.renormalised)
        rows["softmax"] = (
            f"{nodes} is over the classes that stay: the softmax of their scores, which adds up to 1 again"
        )
    return rows


def class_notes(report: ClassReport) -> list[str]:
    """Say what of the file still tells of all classes."""
    if not report.stale_names:
        return []
    return [f"the file's metadata stays as it is: its entry '{METADATA_NAMES}' goes on naming all classes"]


def _change(axis: ClassAxis, kept: int) -> str:
    left, each, blocks = axis.every - axis.count + kept, "", ""
    if axis.blocks > 1:
        each, blocks = " of each", f", {axis.blocks} blocks of {left:,} in the place of {axis.every:,} each"
    where = "" if axis.first == 0 else f", the first class{each} at index {axis.first} as before"
    return f"output '{axis.output}': axis {axis.axis} from {axis.length:,} to {left * axis.blocks:,}{blocks}{where}"


def _numbering(report: ClassReport) -> str:
    """Say which number each class has now: 0 -> 0, 5-9 -> 1-5."""
    parts: list[str] = []
    for first, last in _ranges(report.kept):
        old, new = report.kept[first], first
        if report.names or first == last:
            parts += [f"{report.kept[n]}{_name(report, n)} -> {n}" for n in range(first, last + 1)]
        else:
            parts.append(f"{old}-{report.kept[last]} -> {new}-{last}")
    return ", ".join(parts[:MOST]) + (f", and {len(parts) - MOST} more" if len(parts) > MOST else "")


def _name(report: ClassReport, place: int) -> str:
    return f" ({report.names[place]})" if report.names else ""


def _ranges(kept: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last place of every run of neighbouring classes."""
    borders = [place for place in range(len(kept)) if place == 0 or kept[place] != kept[place - 1] + 1]
    ends = [*(border - 1 for border in borders[1:]), len(kept) - 1]
    return list(zip(borders, ends, strict=True))
