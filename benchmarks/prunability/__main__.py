"""Measure prunability of trained networks: of weights and of channels, with labels and without.

    python -m benchmarks.prunability --shared ../shared [--only resnet20,...] [--images 512] [--append | --tables]

Single weights go by magnitude, by SiPP and at random, channels by PFP, l2 and at random with all layers refitted. The
loss is the cross-entropy at beta = 0.1, or the KL divergence from the original at 0.05. Images are test images, for
these have labels: shares say how little is enough for them, not what the paper has of training data. The plot takes
matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxpfp
from benchmarks.accuracy.networks import NETWORKS, Folders, Images, Network
from benchmarks.prunability.plot import plot
from benchmarks.prunability.rows import Row, read, write

__all__ = ["main"]

NOWHERE = Path("nowhere")
"""In the place of files that hold the labels of calibration images: they are not needed."""
WAYS: dict[str, dict[str, Any]] = {
    "weights by magnitude": {"measure": "weights", "by": "magnitude"},
    "weights by sipp": {"measure": "weights", "by": "sipp"},
    "weights at random": {"measure": "weights", "by": "random"},
    "channels by pfp": {"score": "pfp"},
    "channels by l2": {"score": "l2"},
    "channels at random": {"score": "random"},
}


def main() -> None:
    """Measure what is asked for, and write the page of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--ways", default=",".join(WAYS), help="what goes and by what, comma-separated")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--append", action="store_true", help="keep the other rows that there are")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make the page and the plot")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    file: Path = options.results / "prunability.jsonl"
    rows = read(file) if options.append or options.tables else {}
    for name in [] if options.tables else filter(None, options.only.split(",")):
        network = NETWORKS[name]
        folders = Folders(options.shared, NOWHERE)
        images = network.test(folders).drawn(0, options.images)
        for row in _measured(network, folders, images, options.ways.split(",")):
            rows[row.network, row.way, row.labels] = row
            print(row.network, row.way, row.labels, f"{row.smallest:.3f}", file=sys.stderr, flush=True)
            write(file, rows.values())
    (options.results / "prunability.md").write_text(_page([*rows.values()]), encoding="utf-8")
    plot([*rows.values()], options.results / "prunability.svg")


def _measured(network: Network, folders: Folders, images: Images, ways: Sequence[str]) -> Iterator[Row]:
    for way in ways:
        given = WAYS[way]
        for labels in (True, False):
            more = {"labels": images.known} if labels else {}
            report = onnxpfp.prunability(
                network.file(folders, network.usual), calibration=images.x, threads=1, **given, **more
            )
            if isinstance(report, onnxpfp.WeightPrunabilityReport):
                read, curve = report, report.curves[0]
                shares, losses = curve.shares, curve.losses
            else:
                read = report.network
                shares = tuple(point.share for point in report.curve)
                losses = tuple(point.loss for point in report.curve)
            counts = len(images.x), read.smallest, read.unbroken, read.area
            yield Row(network.name, way, labels, *counts, shares, losses)


def _page(rows: Sequence[Row]) -> str:
    """Show the smallest shares, unbroken ones where they are others, and areas."""
    networks = dict.fromkeys(row.network for row in rows)
    head = "| what goes | " + " | ".join(networks) + " |"
    lines = [_HEAD]
    for labels, title in ((True, _LABELLED), (False, _FREE)):
        lines += [title, "", head, "| --- |" + " ---: |" * len(networks)]
        for way in WAYS:
            found = {row.network: _cell(row) for row in rows if row.way == way and row.labels == labels}
            cells = [found.get(network, "–") for network in networks]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    broken = "" if row.unbroken == row.smallest else f" ({100 * row.unbroken:.1f})"
    return f"{100 * row.smallest:.1f} %{broken}, {row.area:.3g}"


_LABELLED = "## With labels: cross-entropy at most 1.1 times the original's"
_FREE = "## Without labels: KL divergence from the original at most 0.05"
_HEAD = """# Prunability of trained networks

Made by `python -m benchmarks.prunability` from [prunability.jsonl](prunability.jsonl). The smallest share that is
enough: of all weights of convolutions and matrix products, set to zero with nothing refitted; or of the multiply-adds
where channels go and all layers are refitted. In brackets the share down to which every share that was measured is
enough, where that is another. Then the area under the curve of losses (of draws at random the mean of three). Weights
are measured on 512 test images, channels on the 64 of them that fits have not seen, so that a share there is off by a
step of 10 % easily.

![Losses over the share that stays](prunability.svg)
"""

if __name__ == "__main__":
    main()
