"""The rows of the coverage benchmark, one JSON object a line: promises, and searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["PromiseRow", "SearchRow", "read", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromiseRow:
    """How often one promise of one file fails.

    Attributes:
        model: Stem of the file that was pruned.
        percent: Share of the multiply-adds that was asked for.
        pool: Test images.
        agreement: Share of all of them that keep their class.
        layers: How many layers are measured.
        from_pool: Whether held-out images are drawn with replacement and the truth is the whole pool
            (`benchmarks.promises.schemes`).
        held_out: Images that promises are made from.
        alpha: 1 - confidence.
        promise: What is promised.
        share: Of how many inputs; None where that is not what is given.
        trials: Draws.
        failures: Draws in which the promise is false.
        expected: Rate at which an exact promise fails in such draws.
        at_most: Whether that is only an upper bound.
        promised: Median of what is promised.
        true: Median of what it bounds.
    """

    model: str
    percent: int
    pool: int
    agreement: float
    layers: int
    from_pool: bool
    held_out: int
    alpha: float
    promise: str
    share: float | None
    trials: int
    failures: int
    expected: float
    at_most: bool
    promised: float
    true: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRow:
    """How often a searched target is missed.

    Attributes:
        model: Stem of the file that was pruned.
        way: How the file is chosen.
        pool: Test images.
        quantity: Whether an agreement is asked for, or a mean drift.
        target: The one that is asked for.
        alpha: 1 - confidence.
        tuning: Images that say in which order the candidates are tested.
        held_out: Images that test them.
        trials: Draws.
        found: Draws in which a file is found.
        false: Draws in which it does not hold the target on the other images.
        macs: Mean share of the multiply-adds in what is written, 1 where nothing is found.
        true: Mean of what the other images have of it in what is found; None without.
        best: Smallest share of the candidates that hold the target on the whole pool; 1 where none does.
        candidates: Files that may be chosen.
    """

    model: str
    way: str
    pool: int
    quantity: str
    target: float
    alpha: float
    tuning: int
    held_out: int
    trials: int
    found: int
    false: int
    macs: float
    true: float | None
    best: float
    candidates: int


Row = PromiseRow | SearchRow


def read(file: Path) -> list[Row]:
    """Read the rows; there are none without a file."""
    if not file.exists():
        return []
    fields = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [PromiseRow(**each) if "promise" in each else SearchRow(**each) for each in fields]


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write the rows in place of what was there."""
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
