"""The plot of the speed benchmark: ratios, single layers, growth with the images, phases of the whole command."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.speed.layers import LAYERS
from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.plan import KERNELS, MAIN
from benchmarks.speed.rows import Command, Row
from benchmarks.speed.tables import GOALS, steady, timed_of

__all__ = ["plot"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#f0e442")
"""The colour-blind can tell them apart (Okabe and Ito)."""
WIDTH, HEIGHT = 12.0, 8.0
BAR = 0.38
SHORT = 0.03
"""Share of the longest command; shorter phases are not drawn one by one."""


def plot(rows: list[Row], file: Path) -> None:
    """Draw four panels; one without rows stays empty."""
    # The same rows give the same file: its ids are not random, and it has no date.
    with mpl.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panels = figure.subplots(2, 2)
        _ratios(panels[0][0], rows)
        _layers(panels[0][1], rows)
        _growth(panels[1][0], rows)
        _phases(panels[1][1], rows)
        for panel in panels.flatten():
            panel.set_axisbelow(True)
            panel.grid(alpha=0.25, linewidth=0.5)
        figure.savefig(file, metadata={"Date": None})


def _ratios(panel: Axes, rows: list[Row]) -> None:
    """Draw a bar for each network and kernel, and a line at what is asked for."""
    found = [row for row in timed_of(rows, "ratio") if row.threads == 1]
    for number, kernel in enumerate(KERNELS):
        its = [row for row in found if row.kernel == kernel]
        places = [list(MAIN).index(row.subject) + (number - 0.5) * BAR for row in its]
        heights = [row.ratio for row in its]
        spread = [[row.ratio - min(row.ratios) for row in its], [max(row.ratios) - row.ratio for row in its]]
        panel.bar(places, heights, BAR, color=COLOURS[number], yerr=spread, capsize=2, label=f"--kernel {kernel}")
    for place, subject in enumerate(MAIN):
        goal = GOALS[subject][0]
        panel.plot([place - BAR, place + BAR], [goal, goal], color="black", label="" if place else "at most")
    panel.set_xticks(
        range(len(MAIN)), [f"{NETWORKS[name].replace(', ', chr(10))}, {images} images" for name, images in MAIN.items()]
    )
    panel.set_ylabel("(forward + sensitivities) / forward")
    panel.set_title("Whole networks, one thread")
    panel.legend(frameon=False)


def _layers(panel: Axes, rows: list[Row]) -> None:
    """Draw a bar for each layer: what goes on behind the first batch."""
    titles = list(LAYERS)
    for number, kernel in enumerate(KERNELS):
        found = [row for row in timed_of(rows, "layers") if row.kernel == kernel]
        for title in titles:
            its = sorted((row for row in found if row.subject == title), key=lambda row: row.images)
            if len(its) > 1:
                place = len(titles) - titles.index(title) - (number - 0.5) * BAR
                panel.barh([place], [steady(*its)], BAR, color=COLOURS[number])
    panel.set_yticks(range(len(titles), 0, -1), titles)
    panel.set_xlabel("(forward + sensitivities) / forward of the layer")
    panel.set_title("Single layers behind the first batch, one thread")


def _growth(panel: Axes, rows: list[Row]) -> None:
    """Draw seconds an image over the images: flat is proportional."""
    found = timed_of(rows, "growth")
    for number, subject in enumerate(dict.fromkeys(row.subject for row in found)):
        its = sorted((row for row in found if row.subject == subject), key=lambda row: row.images)
        seconds = [statistics.median(row.seconds) / row.images for row in its]
        line = [each / seconds[0] for each in seconds]
        panel.plot([row.images for row in its], line, marker="o", color=COLOURS[number], label=NETWORKS[subject])
    panel.set_ylim(0, 1.3)
    panel.set_xlabel("images")
    panel.set_ylabel("seconds an image, relative")
    panel.set_title("Growth with the images, one thread")
    if found:
        panel.legend(frameon=False, loc="lower right")


def _phases(panel: Axes, rows: list[Row]) -> None:
    """Draw the phases of each command end to end; short ones are put together."""
    found = [row for row in rows if isinstance(row, Command) and row.part == "prune"]
    longest = max((sum(row.phases.values()) for row in found), default=0)
    phases = dict.fromkeys(phase for row in found for phase, took in row.phases.items() if took > SHORT * longest)
    bars = {phase: [row.phases.get(phase, 0) for row in found] for phase in phases}
    bars["others"] = [sum(took for phase, took in row.phases.items() if phase not in phases) for row in found]
    left = [0.0 for _ in found]
    for number, (phase, widths) in enumerate(bars.items()):
        panel.barh(range(len(found)), widths, 0.6, left=left, color=COLOURS[number % len(COLOURS)], label=phase)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    panel.set_yticks(range(len(found)), [row.subject.removeprefix("onnxpfp ").replace(" --", "\n--") for row in found])
    panel.invert_yaxis()
    panel.set_xlabel("seconds")
    panel.set_title("onnxpfp prune, ResNet-50 shape")
    if found:
        panel.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15))
