"""The report of prunability: how little of every group, and of the whole model, can be kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from onnxpfp.allocation.prunability import Prunability
from onnxpfp.pipeline.prunability_curves import Point
from onnxpfp.report.charts import Bars, Curve, Plot, Series, Tile, Tiles
from onnxpfp.report.formats import plain
from onnxpfp.report.inspection import NodeName
from onnxpfp.report.page import Column, Element, Facts, Heading, Line, Table, Title, number, sizes, spent
from onnxpfp.runtime.blocks import Alignment

__all__ = ["GroupPrunability", "PrunabilityReport", "sketch", "told_losses"]

FORMAT = "onnxpfp-prunability"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
LEVELS = "▁▂▃▄▅▆▇█"
"""From an eighth of the tolerance to more than eight times it; each step doubles."""
WITHIN = 4
"""So many of them are within the tolerance."""
_WIDTHS = {
    "measured": "widths by the measured drift of the output",
    "bound": "widths by one sum of what every group drops of its scores",
    "uniform": "one share of every group",
}


@dataclass(frozen=True, slots=True)
class GroupPrunability:
    """The prunability of one group: how little of it can be kept.

    Attributes:
        name: The weight that brings its channels forth.
        channels: How many it has.
        consumers: The nodes that read it.
        prunability: Shares of its channels.
        curve: What was measured, the whole group first.
    """

    name: str
    channels: int
    consumers: tuple[NodeName, ...]
    prunability: Prunability
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class PrunabilityReport:
    """The prunability of a model. All of it depends on how channels are chosen and made up for.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run, at which MACs were counted.
        tolerance: Largest loss that counts as no harm; of groups alone, where there are labels.
        losses: How the drift of each output that counts is measured; the loss is their sum.
        network_losses: The same of the whole network: the cross-entropy where there are labels.
        network_limit: Its largest loss that counts as no harm.
        score: What ranks the channels.
        select: How they are selected.
        allocate: What sets the widths where the whole network is pruned.
        alignment: The multiples in which channels are kept.
        compensate: What is done about dropped channels where the whole network is pruned.
        compensate_groups: The same where one group is narrowed alone.
        samples: Samples that scores and fits were made on.
        samples_groups: Other samples, on which the groups were measured.
        samples_network: Other samples again, on which the whole network was measured.
        macs: Multiply-adds of one run of the whole network.
        network: How little of its MACs can be kept.
        curve: What was measured of the whole network, all of it first.
        groups: The groups, the most fragile first.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, as in `report.pruning.Report`; moreover groups: every group is narrowed alone, and
            network: the whole network is pruned to shares of its MACs, with all that takes, and measured.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    tolerance: float
    losses: Mapping[str, str]
    network_losses: Mapping[str, str]
    network_limit: float
    score: str
    select: str
    allocate: str
    alignment: Alignment
    compensate: str
    compensate_groups: str
    samples: int
    samples_groups: int
    samples_network: int
    macs: int
    network: Prunability
    curve: tuple[Point, ...]
    groups: tuple[GroupPrunability, ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/prunability.md` describes the fields."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain(asdict(self))}
        return document

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show how little can be kept, the most fragile group first."""
        yield Title(f"{self.file or 'the model'}: what can be kept within a loss of {self.tolerance:g}")
        labelled = {}
        if self.network_losses != self.losses:
            limit = f"at most {self.network_limit:.4g}, of the original {self.curve[0].loss:.4g}"
            labelled = {"its loss": f"{told_losses(self.network_losses)}, {limit}"}
        yield self._tiles()
        yield Facts(
            {
                "whole network": _verdict(self),
                **labelled,
                "loss": told_losses(self.losses),
                "chosen by": f"score {self.score}, select {self.select}{_instead(self)}, {_WIDTHS[self.allocate]}",
                "widths": self.alignment.title,
                "compensation": f"{self.compensate}; {self.compensate_groups} for groups alone",
                "samples": f"{self.samples} to choose and fit by, {self.samples_groups} others for the groups, "
                f"{self.samples_network} others for the whole network",
                "counted at": sizes(self.inputs),
                "ran on": ", ".join(self.providers),
                "seconds": spent(self.seconds),
            }
        )
        yield Heading("Whole network")
        yield _curve("Loss of the whole network", "MACs kept", self.curve, self.network_limit)
        points = [
            (f"{100 * point.share:.1f} %", f"{point.loss:.4g}", "within" if point.loss <= self.network_limit else "")
            for point in self.curve
        ]
        yield Table((number("MACs kept"), number("loss"), Column("")), points, tight=False)
        yield Heading("Groups of channels, the most fragile first")
        yield self._kept_of_groups()
        yield _groups_table(self.groups, self.tolerance)
        yield Line(
            "each alone, at the widths measured, the widest first: "
            f"{LEVELS[WITHIN - 1]} and lower are within the tolerance, each step doubles the loss"
        )

    def _tiles(self) -> Tiles:
        """Show how little is enough."""
        network, groups = self.network, [group.prunability.smallest for group in self.groups]
        lowest = min(point.share for point in self.curve)
        tiles = [
            Tile(
                "Multiply-adds that are enough",
                f"{'at most ' * (network.smallest == lowest)}{100 * network.smallest:.1f} %",
                f"of {self.macs:,}, within a loss of {self.network_limit:.4g}",
                network.smallest,
            ),
            Tile("Area under the curve", f"{network.area:.3g}", "of the whole network"),
        ]
        if groups:
            half = f"the most fragile {100 * max(groups):.1f} %, the least {100 * min(groups):.1f} %"
            tiles.append(
                Tile("Channels that are enough", f"{100 * median(groups):.1f} %", f"median over the groups; {half}")
            )
        return Tiles(tiles)

    def _kept_of_groups(self) -> Bars:
        """Show how little of every group is enough, and its curve on a choice."""
        return Bars(
            "Channels that are enough, of every group alone",
            [group.name for group in self.groups],
            [
                Series("enough", [group.prunability.smallest for group in self.groups]),
                Series("may go", [1 - group.prunability.smallest for group in self.groups], faint=True),
            ],
            axis="share of its channels",
            unit="share",
            stacked=True,
            said="Choose one to see its curve.",
            details={
                group.name: [_curve("Loss when it alone is narrowed", "channels kept", group.curve, self.tolerance)]
                for group in self.groups
            },
            of="group",
            order="the most fragile first",
        )


def _curve(title: str, across: str, points: Sequence[Point], limit: float) -> Plot:
    """Draw what was measured, and what counts as no harm."""
    measured = Curve("measured", [(point.share, point.loss) for point in points])
    return Plot(title, across, "loss", [measured], limit=limit, limit_name="counts as no harm")


def told_losses(losses: Mapping[str, str]) -> str:
    """Say how the loss of each output is measured."""
    return ", ".join(f"{kind} of '{name}'" for name, kind in losses.items())


def _instead(report: PrunabilityReport) -> str:
    """Say what ranks channels where sensitivities do not."""
    automatic = report.score in {"pfp", "sipp"} and report.select == "auto"
    return " (output energy where no bound is below 1)" if automatic else ""


def _verdict(report: PrunabilityReport) -> str:
    """Say how little is enough, and where that is only what was measured last."""
    network = report.network
    lowest = min(point.share for point in report.curve)
    bound = "at most " if network.smallest == lowest else ""
    broken = "" if network.unbroken == network.smallest else f", unbroken down to {100 * network.unbroken:.1f} %"
    return f"{bound}{100 * network.smallest:.1f} % of the {report.macs:,} MACs{broken}; area {network.area:.3g}"


def _groups_table(groups: Sequence[GroupPrunability], tolerance: float) -> Table:
    rows: list[tuple[str, ...]] = []
    for group in groups:
        one = group.prunability
        then = next(point.macs for point in group.curve if point.share == one.smallest)
        kept = f"{round(one.smallest * group.channels)}/{group.channels}"
        shares = (f"{100 * one.smallest:.1f} %", f"{100 * one.unbroken:.1f} %")
        curve = sketch(group.curve, tolerance)
        rows.append((group.name, kept, *shares, f"{one.area:.3g}", f"{100 * then:.1f} %", curve))
    titles = ("keeps", "share", "unbroken", "area", "MACs\nleft")
    return Table((Column("group"), *map(number, titles), Column("loss", wraps=False)), rows, of="groups")


def sketch(points: Sequence[Point], tolerance: float) -> str:
    """Draw the losses of a curve, one letter each, without the point at which everything is kept."""
    return "".join(LEVELS[_level(point.loss / tolerance)] for point in points if point.share < 1)


def _level(ratio: float) -> int:
    """Return 0 for up to an eighth of the tolerance, 3 for up to the tolerance, 7 for more than eight times it."""
    if not ratio <= 2 ** (len(LEVELS) - WITHIN):
        return len(LEVELS) - 1
    return max(0, math.ceil(math.log2(ratio)) + WITHIN - 1) if ratio > 0 else 0
