"""The plot of the accuracy benchmark: top-1 over the share of multiply-adds, one panel a network."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.networks import NETWORKS, Network
from benchmarks.accuracy.plan import DEFAULT, LOW_RANK, MAIN, PEER_WAYS, RANKED, UNREFITTED, Way
from benchmarks.accuracy.rows import Row
from benchmarks.accuracy.tables import Rows, by_file, name_of, original, spread

__all__ = ["plot"]

COLOURS = {
    "pfp --effort normal": "#e69f00",
    "pfp": "#0072b2",
    "reconstruction": "#d55e00",
    "pfp --structure channels,rank --effort normal": "#000000",
    "factorize": "#cc79a7",
    "onnxsim": "#009e73",
    "torch-pruning": "#999999",
}
"""The colour-blind can tell them apart (Okabe and Ito)."""
COLUMNS, WIDTH, HEIGHT = 3, 4.0, 3.2
LEGEND = 40
"""Characters of a line in the legend."""


@dataclass(frozen=True, slots=True)
class _Curve:
    """How one method is drawn; those with the same label have one entry in the legend."""

    way: Way
    label: str
    colour: str
    width: float
    dashes: str = "-"
    marker: str = ""


def plot(rows: list[Row], file: Path) -> None:
    """Draw a panel for every network that has rows, and a legend in the place after the last."""
    found = by_file(rows)
    tops = {network.name: original(found, network) for network in NETWORKS.values()}
    shown = [(NETWORKS[name], dense) for name, dense in tops.items() if dense is not None]
    lines = -(-(len(shown) + 1) // COLUMNS)
    # The same rows give the same file: its ids are not random, and it has no date.
    with mpl.rc_context({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(COLUMNS * WIDTH, lines * HEIGHT), layout="constrained")
        panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
        entries: dict[str, object] = {}
        for panel, (network, dense) in zip(panels, shown, strict=False):
            _panel(panel, network, dense, found)
            lines_drawn, labels = panel.get_legend_handles_labels()
            entries |= dict(zip(labels, lines_drawn, strict=True))
        for panel in panels[len(shown) :]:
            panel.axis("off")
        # What lies on top comes first.
        names = list(reversed(entries))
        panels[len(shown)].legend([entries[name] for name in names], names, loc="center", frameon=False)
        figure.savefig(file, metadata={"Date": None})


def _curves() -> list[_Curve]:
    """List what is drawn; what comes later lies on top."""
    packages = [way.peer.package for way in PEER_WAYS if way.peer]
    curves = [
        _Curve(way, f"{package}, {packages.count(package)} methods", COLOURS[package], 0.9)
        for way, package in zip(PEER_WAYS, packages, strict=True)
    ]
    curves += [_Curve(way, _legend(way), COLOURS[way.method.split()[0]], 1.3, dashes="--") for way in UNREFITTED]
    curves += [
        _Curve(way, _legend(way), COLOURS[way.method], 2.0, marker="o")
        for way in (*RANKED, *LOW_RANK[:1], *MAIN, *DEFAULT)
    ]
    return curves


def _legend(way: Way) -> str:
    """Call a method of onnxpfp as the tables do, in lines that fit beside the panels."""
    return textwrap.fill(f"onnxpfp, {name_of(way)}", LEGEND)


def _panel(panel: Axes, network: Network, dense: float, rows: Rows) -> None:
    for curve in _curves():
        _draw(panel, curve, rows.get((network.stems[curve.way.kind(network)], curve.way.method), []))
    panel.axhline(dense, color="black", linewidth=0.8, linestyle=":", label="original")
    panel.set_title(network.title)
    panel.set_xlabel("share of MACs")
    panel.set_ylabel("top-1, %")
    panel.set_xlim(0.95, 0.25)
    panel.set_ylim(0, 100)
    panel.grid(alpha=0.25, linewidth=0.5)


def _draw(panel: Axes, curve: _Curve, rows: list[Row]) -> None:
    """Draw the means over the seeds, at the shares that the files have, with bars for the deviation."""
    points: list[tuple[float, float, float]] = []
    for target in sorted({row.target for row in rows}):
        done = [row for row in rows if row.target == target]
        shares = [row.macs for row in done if row.macs is not None]
        tops = [row.top1 for row in done if row.top1 is not None]
        if tops:
            points.append((spread(shares)[0], *spread(tops)))
    if not points:
        return
    x, y, deviation = zip(*points, strict=True)
    panel.plot(
        x,
        y,
        color=curve.colour,
        linewidth=curve.width,
        linestyle=curve.dashes,
        marker=curve.marker,
        markersize=3.5,
        label=curve.label,
    )
    if any(deviation):
        panel.errorbar(x, y, yerr=deviation, fmt="none", ecolor=curve.colour, elinewidth=1.0, capsize=2)
