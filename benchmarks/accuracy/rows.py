"""The rows of the accuracy benchmark, one JSON object a line; of rows with the same key the last one counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Key", "Row", "append", "compact", "read"]

Key = tuple[str, str, float, int]
"""Model, method, target and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file, pruned one way; the last six are None where the method does not reach the target.

    Attributes:
        model: Stem of the file that was pruned.
        method: What pruned it: flags of onnxpfp or the name of a peer.
        tool: Package and version.
        target: Share of the multiply-adds that was asked for.
        seed: Of the draw of calibration images, and of onnxpfp.
        images: Number of calibration images.
        seconds: Processor time of pruning, all in all; on one thread it is what an idle machine takes.
        dense: Top-1 of the original on the test images, in percent.
        refused: Why there is no result; empty where there is one.
        macs: Share of the multiply-adds in the written file.
        params: Share of the weights of convolutions and linear layers in the written file.
        top1: Top-1 of the written file, in percent.
        agreement: Share of the test images that both files put into the same class, in percent.
        speedup: Median ratio of processor times of the original and the written file, in turn on one thread.
    """

    model: str
    method: str
    tool: str
    target: float
    seed: int
    images: int
    seconds: float
    dense: float
    refused: str = ""
    macs: float | None = None
    params: float | None = None
    top1: float | None = None
    agreement: float | None = None
    speedup: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.model, self.method, self.target, self.seed


def read(file: Path) -> dict[Key, Row]:
    """Read the rows in the order in which their keys came first; there are none without a file."""
    if not file.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row.key: row for row in rows}


def append(file: Path, row: Row) -> None:
    """Add a row at the end."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(_line(row))


def compact(file: Path) -> None:
    """Drop the rows that later ones replaced, and sort."""
    rows = sorted(read(file).values(), key=lambda row: (row.model, row.method, -row.target, row.seed))
    file.write_text("".join(map(_line, rows)), encoding="utf-8")


def _line(row: Row) -> str:
    return json.dumps({name: value for name, value in asdict(row).items() if value is not None and value != ""}) + "\n"
