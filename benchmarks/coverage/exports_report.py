"""The tables of `exports.py`."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from importlib.metadata import version

from benchmarks.coverage.uniform_cut import Cut

__all__ = ["Row", "line", "report", "summary"]

TARGET = 0.30
"""MACs that may stay on the mean of the networks that the other pruners were measured on."""
PACKAGES = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime-gpu")


@dataclass(frozen=True)
class Row:
    """What became of one export.

    Attributes:
        model: Name of the network.
        source: Its library.
        exporter: The exporter.
        peer: MACs that Torch-Pruning keeps; NaN where it fails, None where it was not measured.
        cut: What was found; None where it did not come so far.
        failure: What went wrong; empty where nothing did.
    """

    model: str
    source: str
    exporter: str
    peer: float | None
    cut: Cut | None
    failure: str


def _outcome(row: Row) -> str:
    if row.failure:
        return f"**{row.failure}**"
    return f"keeps all: {row.cut.stays}" if row.cut and row.cut.stays else "passes"


def line(row: Row) -> str:
    """Format one row of the table."""
    c = row.cut
    cells = [row.model, row.source, row.exporter]
    if c is None:
        cells += [""] * 6
    else:
        error = "" if c.stays else f"{c.error:.1e} ({c.allowed:.0e})"
        cells += [str(c.nodes), f"{c.params / 1e6:.2f} M", f"{c.reachable:.1%}", f"{c.macs_kept:.3f}", error]
        cells.append(f"{c.seconds:.2f}")
    return f"| {' | '.join([*cells, _outcome(row)])} |"


def _table(rows: list[Row]) -> str:
    head = [
        "| model | source | exporter | nodes | parameters | reachable | MACs kept | oracle error (allowed) |"
        " analysis, s | outcome |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*head, *map(line, rows)]) + "\n"


def _peers(rows: list[Row]) -> str:
    """Compare the networks that the other pruners were measured on."""
    theirs = {row.model: row.peer for row in rows if row.peer is not None}
    own: dict[str, dict[str, Cut]] = {model: {} for model in theirs}
    for row in rows:
        if row.model in own and row.source == "torchvision" and row.cut:
            own[row.model][row.exporter] = row.cut
    exporters = ("torchscript", "dynamo")
    lines = [
        "| model | torchscript | dynamo | torchscript, widths too | dynamo, widths too | Torch-Pruning 1.6.1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    columns: list[list[float]] = [[], [], [], []]
    for model, cuts in own.items():
        ways = [cuts.get(exporter) for exporter in exporters]
        kept = [c.macs_kept if c else math.nan for c in ways] + [c.macs_kept_twice if c else math.nan for c in ways]
        for column, number in zip(columns, kept, strict=True):
            column.append(number)
        other = "fails" if math.isnan(theirs[model]) else f"{theirs[model]:.2f}"
        lines.append(f"| {' | '.join([model, *(f'{number:.3f}' for number in kept), other])} |")
    means = [f"{statistics.mean(column):.3f}" for column in columns]
    works = [kept for kept in theirs.values() if not math.isnan(kept)]
    last = f"{statistics.mean(works):.2f} of the {len(works)} that work"
    lines.append(f"| {' | '.join([f'**mean of {len(own)}** (target {TARGET:.2f})', *means, last])} |")
    return "\n".join(lines) + "\n"


def summary(rows: list[Row]) -> str:
    """Say in a few lines how it went."""
    cuts = [row.cut for row in rows if row.cut]
    whole = sum(bool(c.stays) for c in cuts)
    failed = sum(bool(row.failure) for row in rows)
    names = {(row.source, row.model) for row in rows}
    timed = sorted((row for row in rows if row.cut), key=lambda row: -(row.cut.seconds if row.cut else 0))
    nodes, seconds = sum(c.nodes for c in cuts), sum(c.seconds for c in cuts)
    slowest = [
        f"- {row.model} ({row.exporter}): {row.cut.nodes} nodes, {row.cut.seconds:.2f} s"
        for row in timed[:8]
        if row.cut
    ]
    lines = [
        f"{len(names)} networks, {len(rows)} exports: {len(cuts) - whole} pass, {whole} keep all channels (the table "
        f"says why), {failed} fail. Largest oracle error: {max((c.error for c in cuts), default=0.0):.1e}.",
        "",
        f"Label analysis alone, on one core: {nodes} nodes in {seconds:.1f} s. The slowest:",
        "",
        *slowest,
    ]
    return "\n".join(lines) + "\n"


def report(rows: list[Row]) -> str:
    """Write the whole results file."""
    used = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return "\n".join(
        [
            "# Exports of torch",
            "",
            f"`python -m benchmarks.coverage.exports --out DIR`, with {used}.",
            "",
            "Random weights; half of every group of channels goes (attention: whole heads). MACs of the written files.",
            "",
            summary(rows),
            "## The networks that other pruners were measured on",
            "",
            "MACs kept; 96 x 96 pixels unless a network needs more. Of an attention whole heads go; for the columns "
            "with widths a second pass takes half of the width of the heads that are left.",
            "",
            _peers(rows),
            "## All exports",
            "",
            _table(rows),
        ]
    )
