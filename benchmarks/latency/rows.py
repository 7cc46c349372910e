"""The rows of the latency benchmark, one JSON object a line; of rows with the same key the last one counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.row_kinds import RowKinds

__all__ = ["ByHand", "Key", "Point", "Ratios", "Row", "Subnormals", "Targeted", "append", "compact", "read"]

Key = tuple[str | int | float, ...]
Ratios = tuple[float, float, float]
"""Lower quartile, median and upper quartile of the latency over that of the original beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Under which conditions a network is measured.

    Attributes:
        network: A key of `benchmarks.latency.subjects.SUBJECTS`, or the name of a file that is made for the row.
        batch: Samples in one run.
        threads: Threads of onnxruntime in the runs that are measured.
        machine: Where, and with what.
        commit: Of onnxpfp; empty in rows that were made before it was kept.
    """

    network: str
    batch: int
    threads: int
    machine: str
    commit: str = ""

    @property
    def case(self) -> Key:
        """What tells it from other conditions."""
        return self.network, self.batch, self.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Targeted(Case):
    """A file that was pruned to a share of its latency; None in all but the first where it is not reached.

    Attributes:
        target: Share of the latency that was asked for.
        table_threads: Threads with which a table was measured that the pruning was given; 0 where it measured itself.
        refused: Why there is no result; empty where there is one.
        ratios: Measured by the benchmark.
        pairs: Pairs of runs of that.
        before_ms: Median run of the original.
        after_ms: Median run of the pruned file.
        promised: Share of the latency that the latency model foresees for the widths.
        reported: Share of the latency that the report of onnxpfp has.
        macs: Share of the multiply-adds that is left.
        before: Percentage of test samples that the original gets right; None where weights are random, as below.
        after: Percentage that the pruned file gets right.
        model_seconds: Of measuring the latency model, or the table.
        pass_seconds: Of a forward pass over the calibration samples on the same threads.
        seconds: Of the whole call, by the clock.
    """

    target: float
    table_threads: int = 0
    refused: str = ""
    ratios: Ratios | None = None
    pairs: int | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    promised: float | None = None
    reported: float | None = None
    macs: float | None = None
    before: float | None = None
    after: float | None = None
    model_seconds: float | None = None
    pass_seconds: float | None = None
    seconds: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return *self.case, self.target, self.table_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand(Case):
    """A share of the multiply-adds that was tuned until the latency was that of a pruning with a target of latency.

    Attributes:
        target: Share of the latency that this pruning was asked for.
        rounding: Multiple of the widths; 0 where that was left to the default.
        goal: Measured share of its latency.
        tried: How many prunings it took.
        refused: Why there is none; empty where there is one.
        keep_macs: What was given to the nearest.
        ratios: Measured by the benchmark.
        macs: Share of the multiply-adds that is left.
        after: Percentage of test samples that it gets right.
        seconds: Of all calls, by the clock.
    """

    target: float
    rounding: int
    goal: float
    tried: int
    seconds: float
    refused: str = ""
    keep_macs: float | None = None
    ratios: Ratios | None = None
    macs: float | None = None
    after: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return *self.case, self.target, self.rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Case):
    """A file of one tool, measured in one run with those of the others.

    Attributes:
        tool: Name and version of the package.
        method: What it did.
        setting: What it was given: the share of the latency, of onnxpfp, or the ratio of a peer.
        before: Percentage of test samples that the original gets right.
        refused: Why there is no file; empty where there is one.
        ratios: Measured by the benchmark.
        after: Percentage that the file gets right.
    """

    tool: str
    method: str
    setting: float
    before: float
    refused: str = ""
    ratios: Ratios | None = None
    after: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return *self.case, self.method, self.setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnormals(Case):
    """A file before and after its subnormal weights became zero, with no other change.

    Attributes:
        weights: How many of its weights are subnormal.
        zeroed: How many became zero.
        ratios: Measured by the benchmark.
        before_ms: Median run of the original.
        after_ms: Median run of the other file.
        outputs: How many numbers of the outputs are normal or zero in the original.
        equal: How many of them have the same bits.
        largest: Largest difference of an output, over the largest output.
    """

    weights: int
    zeroed: int
    ratios: Ratios
    before_ms: float
    after_ms: float
    outputs: int
    equal: int
    largest: float

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.case


Row = Targeted | ByHand | Point | Subnormals


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != ""}


ROWS: RowKinds[Row] = RowKinds((Targeted, ByHand, Point, Subnormals), _stored)
KINDS = ROWS.by_name
kind_of, read, append, compact = ROWS.kind_of, ROWS.read, ROWS.append, ROWS.compact
