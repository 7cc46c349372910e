"""A measurement of the benchmark of prunability, and the file that holds them all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Row", "read", "write"]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        network: The network.
        way: What goes, and by what.
        labels: Whether the loss is the cross-entropy.
        images: How many were given.
        smallest: The smallest share that is enough.
        unbroken: The smallest share down to which all are.
        area: Area under the curve.
        shares: Shares that were measured; of the first draw.
        losses: The loss at each.
    """

    network: str
    way: str
    labels: bool
    images: int
    smallest: float
    unbroken: float
    area: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]


def read(file: Path) -> dict[tuple[str, str, bool], Row]:
    """Read all rows of a file; none where there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.network, row.way, row.labels): row for row in rows}


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write rows, one in a line."""
    file.write_text("".join(json.dumps(asdict(each)) + "\n" for each in rows), encoding="utf-8")
