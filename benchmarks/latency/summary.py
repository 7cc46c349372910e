"""The table of the latency benchmark that the README shows: one sample, one thread, beside what others reach."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.latency.equal_accuracy import OURS, paired
from benchmarks.latency.rows import ByHand, Point, Row, Targeted

__all__ = ["HEAD", "SUMMARY", "summary"]

SUMMARY = """One sample in a run, one thread. By hand: the accuracy of `--keep-macs`, its share tuned until the file is
as fast, the better of widths by default and in multiples of 8. Best peer: the latency of the fastest file of onnxsim
and Torch-Pruning that is as accurate, as a share of the original's."""
HEAD = ["network", "asked for", "measured", "ms", "accuracy", "by hand, as fast", "best peer, as accurate"]
NOTHING = "–"


def summary(rows: Sequence[Row], title: dict[str, str]) -> list[list[str]]:
    """Return a line for every target that was measured so, in the order of the networks.

    Args:
        rows: All rows.
        title: What the networks are called.
    """
    own = [row for row in rows if isinstance(row, Targeted) and not row.table_threads and row.case[1:] == (1, 1)]
    own.sort(key=lambda row: (list(title).index(row.network), -row.target))
    return [
        [
            title[row.network],
            f"{row.target:g}",
            row.refused or f"{row.ratios[1]:.2f}",
            f"{row.before_ms:.2f} → {row.after_ms:.2f}",
            f"{row.before:.1f} → {row.after:.1f}" if row.before is not None and row.after is not None else NOTHING,
            _by_hand(rows, row),
            _best_peer(rows, row),
        ]
        for row in own
        if row.ratios is not None
    ]


def _by_hand(rows: Sequence[Row], ours: Targeted) -> str:
    """Return the accuracy that a tuned share of the multiply-adds has."""
    same = (row for row in rows if isinstance(row, ByHand) and (row.case, row.target) == (ours.case, ours.target))
    best = max((row.after for row in same if row.after is not None), default=None)
    return NOTHING if best is None else f"{best:.1f}"


def _best_peer(rows: Sequence[Row], ours: Targeted) -> str:
    """Return the least latency of a peer at the accuracy of the file with this target."""
    points = [row for row in rows if isinstance(row, Point) and row.case == ours.case]
    latencies = [
        latency
        for mine, _, latency in paired(points)
        if (mine.method, mine.setting) == (OURS, ours.target) and latency is not None
    ]
    return f"{min(latencies):.2f}" if latencies else NOTHING
