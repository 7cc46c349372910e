"""The plot of prunability: losses over shares, one panel a network, with labels above and without below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.prunability.rows import Row

__all__ = ["plot"]

STYLES = {
    "weights by magnitude": ("#0072b2", "--"),
    "weights by sipp": ("#cc79a7", "--"),
    "weights at random": ("#999999", "--"),
    "channels by pfp": ("#d55e00", "-"),
    "channels by l2": ("#009e73", "-"),
    "channels at random": ("#999999", "-"),
}
"""Colour and dashes of every way; the colour-blind can tell them apart (Okabe and Ito)."""
LOSSES = {True: "cross-entropy", False: "KL divergence"}
WIDTH, HEIGHT = 2.6, 2.4
FLOOR = 1e-4
"""Losses below are drawn there: the original's divergence is 0."""


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw the losses of all networks that have rows."""
    networks = list(dict.fromkeys(row.network for row in rows))
    # The same rows give the same file: its ids are not random, and it has no date.
    with mpl.rc_context({"svg.hashsalt": "prunability", "svg.fonttype": "none", "font.size": 8}):
        size = (len(networks) * WIDTH, len(LOSSES) * HEIGHT + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(LOSSES), len(networks), squeeze=False, sharex=True, sharey="row")
        for line, (labels, loss) in zip(panels, LOSSES.items(), strict=True):
            line[0].set_ylabel(loss)
            for panel, network in zip(line, networks, strict=True):
                _panel(panel, [row for row in rows if row.network == network and row.labels == labels])
        for panel, network in zip(panels[0], networks, strict=True):
            panel.set_title(network)
        for panel in panels[-1]:
            panel.set_xlabel("share that stays")
        handles, names = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(STYLES), frameon=False)
        figure.savefig(file, metadata={"Date": None})


def _panel(panel: Axes, rows: Sequence[Row]) -> None:
    """Draw one network; the share falls from left to right, as pruning goes."""
    for row in rows:
        colour, dashes = STYLES[row.way]
        losses = [max(loss, FLOOR) for loss in row.losses]
        panel.plot(row.shares, losses, color=colour, linestyle=dashes, linewidth=1.3, label=row.way)
    panel.set_yscale("log")
    panel.set_xlim(1.0, 0.0)
    panel.grid(visible=True, linewidth=0.3)
