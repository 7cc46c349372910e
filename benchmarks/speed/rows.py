"""The rows of the speed benchmark, one JSON object a line; of rows with the same key the last one counts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Case", "Command", "Difference", "Key", "Memory", "Row", "Timed", "append", "compact", "read"]

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured.

    Attributes:
        part: Part of the benchmark.
        subject: Name of a network, or title of a layer.
        method: Of `calibrate`: "screened" or "plain".
        kernel: "sum" or "max".
        threads: Threads of everything.
        images: How many.
        batch: Images in one run, in the forward pass as in the sensitivities.
    """

    part: str
    subject: str
    method: Literal["screened", "plain"] = "screened"
    kernel: Literal["sum", "max"] = "sum"
    threads: int = 1
    images: int = 64
    batch: int = 16

    @property
    def key(self) -> Key:
        """What tells it from other cases."""
        return self.part, self.subject, self.method, self.kernel, self.threads, self.images, self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed(Case):
    """Seconds of the forward pass and of the whole call of `calibrate`, in turn in one process, by round.

    Attributes:
        machine: Where, and with what.
        forward_cpu: Processor seconds of all images through a plain session that was ready.
        forward_wall: The same by the clock.
        cpu: Processor seconds of `calibrate`, which builds its sessions and runs the network itself.
        wall: The same by the clock.
    """

    machine: str
    forward_cpu: tuple[float, ...]
    forward_wall: tuple[float, ...]
    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    @property
    def forward(self) -> tuple[float, ...]:
        """Seconds of the forward pass: of the processor on one thread, by the clock on several."""
        return self.forward_cpu if self.threads == 1 else self.forward_wall

    @property
    def seconds(self) -> tuple[float, ...]:
        """Seconds of `calibrate`, counted in the same way."""
        return self.cpu if self.threads == 1 else self.wall

    @property
    def ratios(self) -> tuple[float, ...]:
        """(forward + sensitivities) / forward, by round."""
        return tuple(ours / forward for ours, forward in zip(self.seconds, self.forward, strict=True))

    @property
    def ratio(self) -> float:
        """The median of that."""
        return statistics.median(self.ratios)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Case):
    """Peaks of the resident memory of two processes that did the same until then.

    Attributes:
        machine: Where, and with what.
        forward_bytes: Of the one that ran the forward pass.
        bytes: Of the one that ran `calibrate`.
    """

    machine: str
    forward_bytes: int
    bytes: int

    @property
    def above(self) -> int:
        """What `calibrate` takes more."""
        return self.bytes - self.forward_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Case):
    """How far `method` is from the plain path.

    Attributes:
        machine: Where, and with what.
        largest: Largest relative difference of a sensitivity.
        channels: How many were compared.
    """

    machine: str
    largest: float
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, run once or several times.

    Attributes:
        part: Part of the benchmark.
        subject: What is run, as tables show it.
        images: Calibration images; 0 where there are none.
        machine: Where, and with what.
        wall: Seconds by the clock, by run.
        cpu: Processor seconds, by run.
        bytes: Largest peak of the resident memory.
        phases: Seconds by phase as the report of the last run has them.
    """

    part: str
    subject: str
    images: int = 0
    machine: str
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    bytes: int
    phases: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def key(self) -> Key:
        """What tells it from other commands."""
        return self.part, self.subject, self.images


Row = Timed | Memory | Difference | Command
KINDS: dict[str, type[Row]] = {kind.__name__.lower(): kind for kind in (Timed, Memory, Difference, Command)}


def read(file: Path) -> dict[Key, Row]:
    """Read the rows in the order in which their keys came first; there are none without a file."""
    if not file.exists():
        return {}
    rows = map(_parsed, file.read_text(encoding="utf-8").splitlines())
    return {(type(row).__name__.lower(), *row.key): row for row in rows}


def append(file: Path, row: Row) -> None:
    """Add a row at the end."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(_line(row))


def compact(file: Path) -> None:
    """Drop the rows that later ones replaced, and sort."""
    rows = [row for _, row in sorted(read(file).items())]
    file.write_text("".join(map(_line, rows)), encoding="utf-8")


def _line(row: Row) -> str:
    return json.dumps({"kind": type(row).__name__.lower(), **asdict(row)}) + "\n"


def _parsed(line: str) -> Row:
    stored: dict[str, Any] = json.loads(line)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    return KINDS[values.pop("kind")](**values)
