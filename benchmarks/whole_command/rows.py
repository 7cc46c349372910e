"""The rows of whole commands, one JSON object a line; of rows with the same key the last one counts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.row_kinds import RowKinds

__all__ = ["Key", "Peer", "Row", "Waited", "Whole", "append", "compact", "kind_of", "read"]

Key = tuple[str | int, ...]
Seconds = tuple[float, ...]
"""One number a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A command that was run once or several times.

    Attributes:
        network: A key of `benchmarks.whole_command.subjects.NETWORKS`.
        images: How many samples it pruned with.
        machine: Where, and with what.
        cpu: Processor seconds of the process and all its children, by run.
        wall: Seconds by the clock, by run.
    """

    network: str
    images: int
    machine: str
    cpu: Seconds
    wall: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BesideForward(Measured):
    """A command on one thread that took turns with the forward pass of the same samples.

    Attributes:
        bytes: Largest resident memory of the process that works.
        forward_cpu: Processor seconds of the forward pass, by turn.
        forward_bytes: Largest resident memory of the process that ran it.
        phases: Processor seconds by phase, by run.
    """

    bytes: int
    forward_cpu: Seconds
    forward_bytes: int
    phases: Mapping[str, Seconds]

    @property
    def forward(self) -> float:
        """Median seconds of the forward pass."""
        return statistics.median(self.forward_cpu)

    @property
    def passes(self) -> float:
        """The whole command in forward passes."""
        return statistics.median(self.cpu) / self.forward

    @property
    def passes_by_phase(self) -> dict[str, float]:
        """Forward passes of every phase."""
        return {phase: statistics.median(seconds) / self.forward for phase, seconds in self.phases.items()}

    @property
    def passes_outside(self) -> float:
        """Forward passes outside all phases: start, imports, writing."""
        inside = zip(*self.phases.values(), strict=True)
        outside = [cpu - sum(run) for cpu, run in zip(self.cpu, inside, strict=True)]
        return statistics.median(outside) / self.forward

    @property
    def above(self) -> int:
        """Bytes beyond those of the forward pass."""
        return self.bytes - self.forward_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(BesideForward):
    """`onnxpfp prune` with its defaults.

    Attributes:
        code: "before" or "after".
        commit: Which code that is.
        held: Whether BLAS was held to one thread from outside.
    """

    code: str
    commit: str
    held: bool

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.network, self.images, self.code, self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Measured):
    """`onnxpfp prune` with its defaults, on several threads and beside other processes.

    Attributes:
        code: "before" or "after".
        commit: Which code that is.
        threads: As `--threads` says; 0 where it is not given.
        busy: How many other processes keep a core busy each.
    """

    code: str
    commit: str
    threads: int
    busy: int

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.network, self.images, self.code, self.threads, self.busy

    @property
    def seconds(self) -> float:
        """Median by the clock."""
        return statistics.median(self.wall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer(BesideForward):
    """The pruning of another tool.

    Attributes:
        tool: Name and version of the package.
        method: What it does.
    """

    tool: str
    method: str

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.network, self.images, self.method


Row = Whole | Waited | Peer


def _rounded(value: Any) -> Any:
    """Write seconds with four digits behind the point."""
    match value:
        case dict():
            return {name: _rounded(each) for name, each in value.items()}
        case tuple():
            return [_rounded(each) for each in value]
        case float():
            return round(value, 4)
    return value


ROWS: RowKinds[Row] = RowKinds((Whole, Waited, Peer), _rounded)
KINDS = ROWS.by_name
kind_of, read, append, compact = ROWS.kind_of, ROWS.read, ROWS.append, ROWS.compact
