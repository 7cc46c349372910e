"""Calls of onnxpfp, and what is read of its reports: the only place here that knows their names."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxpfp
from benchmarks.latency.subjects import Places, Subject
from onnxpfp.errors import TargetUnreachableError

__all__ = ["Pruned", "RefusedError", "make_table", "prune_to_latency", "prune_to_macs"]

TABLE_PHASE = "latency table"
"""Phase of the report in which the latency model is measured, and prunings that it foresaw."""


class RefusedError(Exception):
    """The target is not reached; the text says why."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A file that was written.

    Attributes:
        macs: Share of the multiply-adds in it, by the report.
        seconds: Of the whole call, by the clock, with writing the file.
        promised: Share of the latency that the latency model foresaw for the widths; None where none was asked for.
        reported: Share of the latency by the report; None where it measured none.
        model_seconds: Of measuring the latency model and the prunings that it foresaw; None where a table was given, or
            no latency asked for.
    """

    macs: float
    seconds: float
    promised: float | None
    reported: float | None
    model_seconds: float | None


def prune_to_latency(
    subject: Subject, places: Places, out: Path, share: float, *, threads: int, batch: int, table: Path | None = None
) -> Pruned:
    """Prune channels with a target of latency, by a table where there is one.

    Raises:
        RefusedError: It is not reached.
    """
    given = {} if table is None else {"latency_table": str(table)}
    common = {"structure": "channels", "latency_batch": batch}
    return _prune(subject, places, out, threads, keep_latency=share, **common, **given)


def prune_to_macs(
    subject: Subject, places: Places, out: Path, share: float, *, threads: int, round_to: int | None
) -> Pruned:
    """Prune with a target of multiply-adds; None leaves the multiple of the widths to the default.

    Raises:
        RefusedError: It is not reached.
    """
    rounding = {} if round_to is None else {"round_to": round_to}
    return _prune(subject, places, out, threads, keep_macs=share, no_latency=True, **rounding)


def make_table(subject: Subject, places: Places, out: Path, *, threads: int, batch: int) -> float:
    """Measure a table with the command that does so on a device; return its seconds by the clock."""
    shape = ",".join(map(str, (1, *subject.calibration(places).shape[1:])))
    command = [sys.executable, "-m", "onnxpfp", "latency", str(subject.file(places)), "-o", str(out), "--quiet"]
    command += ["--input-shape", shape, "--threads", str(threads), "--latency-batch", str(batch)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return time.perf_counter() - start


def _prune(subject: Subject, places: Places, out: Path, threads: int, **options: Any) -> Pruned:
    samples = subject.calibration(places)
    start = time.perf_counter()
    try:
        result = onnxpfp.prune(subject.file(places), calibration=samples, threads=threads, effort="low", **options)
    except TargetUnreachableError as error:
        raise RefusedError(str(error)) from error
    onnxpfp.save_result(result, out)
    seconds = time.perf_counter() - start
    report = result.report
    found = report.latency
    target = report.latency_target
    return Pruned(
        macs=round(report.after.macs / report.before.macs, 4),
        seconds=round(seconds, 1),
        promised=None if target is None or target.foreseen is None else round(target.foreseen, 4),
        reported=None if found is None or found.ratio is None else round(found.ratio.median, 4),
        model_seconds=None if target is None or target.given else round(report.seconds[TABLE_PHASE], 2),
    )
