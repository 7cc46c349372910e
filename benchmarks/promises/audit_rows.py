"""The rows of the audit: counts of promises by network, way and target, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Counts", "Key", "Record", "append", "compact", "read", "total"]

Key = tuple[str, str, float]
"""File, way and target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many promises inform, and how many are broken.

    Attributes:
        rows: Cut groups that have an eps, times their consumers.
        below: Rows whose eps is below 1.
        zero: Of these, those whose eps is 0.
        informative: Of these, those whose eps is above 0, and kept by the choice alone.
        broken_by_choice: Of those below 1, the ones that the choice alone breaks.
        broken_by_file: Of those below 1, the ones that the written file breaks, which eps does not promise.
        errors: Cut groups whose choice has a bound of its error by held-out samples, times their consumers.
        errors_below: Of these, those whose bound is below 1.
        errors_kept: Of these, those whose bound the error of the choice alone keeps on fresh inputs.
        layers: Layers of the report; None where it has none.
        bounded: Those with a bound below 1 that a share of the inputs is promised to keep.
        kept: Of these, those whose bound at least that share of the fresh inputs keeps.
    """

    rows: int
    below: int
    zero: int
    informative: int
    broken_by_choice: int
    broken_by_file: int
    errors: int | None = None
    errors_below: int | None = None
    errors_kept: int | None = None
    layers: int | None = None
    bounded: int | None = None
    kept: int | None = None

    @classmethod
    def of_rows(cls, epsilons: Sequence[float], by_choice: Sequence[bool], by_file: Sequence[bool]) -> Self:
        """Count rows, of which each has an eps, and is broken or not."""
        below = [row for row in zip(epsilons, by_choice, by_file, strict=True) if row[0] < 1]
        return cls(
            rows=len(epsilons),
            below=len(below),
            zero=sum(eps == 0 for eps, _, _ in below),
            informative=sum(eps > 0 and not choice for eps, choice, _ in below),
            broken_by_choice=sum(choice for _, choice, _ in below),
            broken_by_file=sum(file for _, _, file in below),
        )

    def with_errors(self, bounds: Sequence[float], realised: Sequence[float]) -> Self:
        """Count the bounds of the errors of choices, of which each has a realised error, too."""
        below = [pair for pair in zip(bounds, realised, strict=True) if pair[0] < 1]
        kept = sum(error <= bound for bound, error in below)
        return replace(self, errors=len(bounds), errors_below=len(below), errors_kept=kept)

    def with_layers(self, layers: Sequence[Mapping[str, Any]], errors: Mapping[str, NDArray[np.float64]]) -> Self:
        """Count the bounds of layers, too.

        Args:
            layers: The report's, with name, bound and share; the last two are None where there is no promise.
            errors: Realised errors of fresh inputs by layer, (N,).
        """
        bounded = [each for each in layers if each["bound"] is not None and each["bound"] < 1]
        kept = sum(float((errors[each["name"]] <= each["bound"]).mean()) >= each["share"] for each in bounded)
        return replace(self, layers=len(layers), bounded=len(bounded), kept=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The counts of one run.

    Attributes:
        file: Stem of the file that was pruned.
        way: Flags.
        target: Share of the multiply-adds.
        images: Calibration images.
        inputs: Test images.
        counts: The counts.
    """

    file: str
    way: str
    target: float
    images: int
    inputs: int
    counts: Counts

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.file, self.way, self.target


def total(records: Iterable[Record]) -> Counts:
    """Add up; errors of choices and layers only where every record has them."""
    every = [asdict(record.counts) for record in records]
    sums = {name: [each[name] for each in every] for name in every[0]}
    return Counts(**{name: None if None in values else sum(values) for name, values in sums.items()})


def read(file: Path) -> dict[Key, Record]:
    """Read the records; of those with the same key the last one counts, and there are none without a file."""
    if not file.exists():
        return {}
    found = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    records = [Record(**{**each, "counts": Counts(**each["counts"])}) for each in found]
    return {record.key: record for record in records}


def append(file: Path, record: Record) -> None:
    """Add a record at the end."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(_line(record))


def compact(file: Path) -> None:
    """Drop the records that later ones replaced."""
    file.write_text("".join(map(_line, read(file).values())), encoding="utf-8")


def _line(record: Record) -> str:
    return json.dumps(asdict(record)) + "\n"
