"""The page of the benchmark of single weights."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.accuracy.networks import NETWORKS
from benchmarks.sparsity.rows import Accuracy, Bounds

__all__ = ["page"]

HEAD = """# Single weights

Weights of trained networks that become zeros, without any training or refit: `onnxpfp sparsify` (SiPP) by its three
selections, and the weights of the largest magnitude of the network or of every layer. Made by `python -m
benchmarks.sparsity` with 512 calibration images, one thread and the files with folded BatchNormalization; top-1 over
5,000 test images (CIFAR-10) or 1,000. *compressed* is the size of the file after zlib, as a share of the original's.
"""
BOUNDS = """## How often the bounds fail

A triple is a layer, a draw (of deterministic choices there is one) and an input that the call has not seen; it counts
as broken where one of the layer's sums, apart for the signs of weights and inputs, is further off than the bound that
is printed for the layer, with the inputs that it has in the original. Made by `python -m benchmarks.sparsity.bounds`;
errors are computed in float64 by code of the benchmark alone.
"""


def page(rows: Sequence[Accuracy | Bounds]) -> str:
    """Return the page."""
    parts = [HEAD]
    accuracies = [row for row in rows if isinstance(row, Accuracy)]
    for name, network in NETWORKS.items():
        mine = [row for row in accuracies if row.network == name]
        if mine:
            parts += [f"## {network.title}, {mine[0].before:.1f} % before", _accuracy(mine)]
    bounds = [row for row in rows if isinstance(row, Bounds)]
    if bounds:
        parts += [BOUNDS, _bounds(bounds)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _accuracy(rows: Sequence[Accuracy]) -> str:
    shares = sorted({row.keep for row in rows}, reverse=True)
    head = ("weights chosen by", *(f"top-1 at {share:g}" for share in shares), *(f"compressed {s:g}" for s in shares))
    lines: list[tuple[str, ...]] = []
    for way in dict.fromkeys(row.way for row in rows):
        there = [[row for row in rows if (row.way, row.keep) == (way, share)] for share in shares]
        right = [f"{statistics.mean(r.after for r in some):.1f} %" if some else "–" for some in there]
        sizes = [f"{statistics.mean(r.compressed for r in some):.2f}" if some else "–" for some in there]
        lines.append((way, *right, *sizes))
    return _table(head, lines)


def _bounds(rows: Sequence[Bounds]) -> str:
    head = ("layers", "select", "kept", "delta", "triples", "bound below 1", "broken", "mean error", "median bound")
    lines = [
        (
            row.layers,
            row.select,
            f"{row.keep:g}",
            f"{row.delta:g}",
            f"{row.triples:,}",
            f"{row.below:,}",
            f"{row.broken:,}",
            f"{row.error:.2g}",
            f"{row.bound:.2g}",
        )
        for row in rows
    ]
    return _table(head, lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
