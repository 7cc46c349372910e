"""Make the rows of one job of the latency benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.latency.by_hand import by_hand
from benchmarks.latency.equal_accuracy import compared
from benchmarks.latency.plan import Job
from benchmarks.latency.rows import Key, Row, Targeted
from benchmarks.latency.subjects import SUBJECTS, Places
from benchmarks.latency.subnormals import cleaned
from benchmarks.latency.targets import by_table, targeted

__all__ = ["make"]


def make(job: Job, places: Places, there: Mapping[Key, Row]) -> Sequence[Row]:
    """Make the rows of one job.

    Raises:
        ValueError: It stands beside a row that is not there.
    """
    if job.part == "subnormals":
        return cleaned(SUBJECTS.get(job.network), places)
    subject = SUBJECTS[job.network]
    match job.part:
        case "targets":
            return targeted(subject, places, job.target, job.batch, job.threads)
        case "table":
            return by_table(subject, places, job.target, job.batch)
        case "equal":
            return compared(subject, places, job.batch)
        case _:
            ours = there.get(("targeted", job.network, job.batch, job.threads, job.target, 0))
            if not isinstance(ours, Targeted) or ours.ratios is None:
                raise ValueError(f"{job.network} has no latency for a target of {job.target}; make the part targets")
            return by_hand(subject, places, ours, job.rounding)
