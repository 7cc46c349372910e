"""Rows of prunings with a target of latency, and of those that are given a table."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.latency.product import Pruned, RefusedError, make_table, prune_to_latency
from benchmarks.latency.rows import Targeted
from benchmarks.latency.subjects import Places, Subject
from benchmarks.latency.turns import beside, feed_of, seconds_of
from benchmarks.speed.machine import commit, machine

__all__ = ["by_table", "targeted"]

TABLE_THREADS = 1
USED_THREADS = (1, 2)
"""Threads of the runs on which a table is held against what is measured."""


def targeted(subject: Subject, places: Places, target: float, batch: int, threads: int) -> list[Targeted]:
    """Prune to a share of the latency, and measure the file as it was asked for."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "pruned.onnx"
        common = {**_made(subject), "batch": batch, "threads": threads, "target": target}
        try:
            pruned = prune_to_latency(subject, places, out, target, threads=threads, batch=batch)
        except RefusedError as error:
            return [Targeted(**common, refused=str(error))]
        row = _measured(subject, places, out, pruned, Targeted(**common))
    return [row]


def by_table(subject: Subject, places: Places, target: float, batch: int) -> list[Targeted]:
    """Measure a table, prune by it, and measure the file with the threads of the table and with others."""
    with tempfile.TemporaryDirectory() as scratch:
        out, table = Path(scratch) / "pruned.onnx", Path(scratch) / "table.json"
        common = {**_made(subject), "batch": batch, "target": target}
        cases = [Targeted(**common, threads=threads, table_threads=TABLE_THREADS) for threads in USED_THREADS]
        seconds = make_table(subject, places, table, threads=TABLE_THREADS, batch=batch)
        try:
            pruned = prune_to_latency(subject, places, out, target, threads=TABLE_THREADS, batch=batch, table=table)
        except RefusedError as error:
            return [replace(case, refused=str(error), model_seconds=round(seconds, 2)) for case in cases]
        rows = [_measured(subject, places, out, pruned, case) for case in cases]
    return [replace(row, model_seconds=round(seconds, 2)) for row in rows]


def _made(subject: Subject) -> dict[str, Any]:
    return {"network": subject.name, "machine": machine(), "commit": commit()}


def _measured(subject: Subject, places: Places, out: Path, pruned: Pruned, case: Targeted) -> Targeted:
    original, samples = subject.file(places), subject.calibration(places)
    seen = beside(original, out, feed_of(original, samples[: case.batch]), case.threads)
    return replace(
        case,
        ratios=seen.ratios,
        pairs=seen.pairs,
        before_ms=seen.before_ms,
        after_ms=seen.after_ms,
        promised=pruned.promised,
        reported=pruned.reported,
        macs=pruned.macs,
        before=subject.right(original, places),
        after=subject.right(out, places),
        model_seconds=pruned.model_seconds,
        pass_seconds=round(seconds_of(original, samples, case.threads), 3),
        seconds=pruned.seconds,
    )
