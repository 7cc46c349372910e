"""The report of a file of scores: what it is of, and the most and least sensitive channels of every group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxpfp.channels.name_patterns import name_inside
from onnxpfp.counted import counted
from onnxpfp.pipeline.scores.file import ScoresFile
from onnxpfp.report.page import Column, Element, Facts, Line, Table, Title, number, sizes, spent

__all__ = ["GroupScores", "ScoresReport"]

FORMAT = "onnxpfp-scores-report"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
ROWS = 20
"""Groups that are shown where nothing else is asked for."""
ENDS = 3
"""Channels that are named at each end of a group."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of a group.

    Attributes:
        name: The weight that brings its channels forth.
        sensitivities: Of every channel, in [0, 1], in the order of the weight's axis; None where it costs nothing and
            went before the rest was measured.
    """

    name: str
    sensitivities: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ScoresReport:
    """What a file of scores says.

    Attributes:
        scores: The file; `save` writes it.
        file: The model, or None where it was given as an object or files were merged.
        merged: The files that it was merged from; empty where a network was measured.
        groups: The scores of every group.
        providers: Where onnxruntime really ran; empty where files were merged.
        seconds: Time by phase; empty where files were merged.
        notes: What the user should know.
    """

    scores: ScoresFile
    file: str | None
    merged: tuple[str, ...]
    groups: tuple[GroupScores, ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        scores: ScoresFile,
        *,
        file: str | None = None,
        merged: tuple[str, ...] = (),
        providers: tuple[str, ...] = (),
        seconds: Mapping[str, float] | None = None,
        notes: tuple[str, ...] = (),
    ) -> ScoresReport:
        """Report on a file, and say which shards it lacks."""
        empty = [f"shard {each.shards[0]} has no sample" for each in scores.data if not each.scored]
        notes = (*notes, *(f"{text}: the samples run in fewer batches than there are shards" for text in empty))
        if scores.missing:
            rest = f"shards that are still to be merged in before a pruning can use them: {scores.missing}"
            notes = (*notes, rest)
        return cls(scores, file, merged, tuple(_groups(scores)), providers, dict(seconds or {}), notes)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the statistics in types that JSON knows; `docs/scores.md` describes the fields."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "file": self.file,
            "merged": list(self.merged),
            "header": self.scores.header.to_dict(),
            "samples": [each.to_dict() for each in self.scores.data],
            "missing": self.scores.missing,
            "groups": [asdict(group) for group in self.groups],
            "providers": list(self.providers),
            "seconds": dict(self.seconds),
            "notes": list(self.notes),
        }

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show what was measured, and the ends of every group."""
        scores, header = self.scores, self.scores.header
        scored = sum(each.scored for each in scores.data)
        yield Title(
            f"{self.file or scores.title}: the scores of {counted(len(self.groups), 'group')} on "
            f"{counted(scored, 'sample')}"
        )
        rows = {
            "samples": "; ".join(_samples(each.scored, each.samples, each.shards) for each in scores.data),
            "measured": f"--kernel {header.kernel}, --seed {header.seed}; shapes {sizes(header.inputs)}",
        }
        if self.merged:
            rows["merged"] = ", ".join(self.merged)
        if self.providers:
            rows["ran on"] = ", ".join(self.providers)
            rows["seconds"] = spent(self.seconds)
        yield Facts(rows)
        yield Table(
            (Column("group"), *map(number, ("channels", "free")), Column("most sensitive"), Column("least sensitive")),
            [_row(group) for group in self.groups],
            of="groups",
            most=ROWS,
            flag="-v",
        )
        yield Line(
            "channel: sensitivity, the largest share of a sum of a layer that reads it; free: costs nothing, and went"
        )


def _samples(scored: int, samples: int, shards: tuple[Any, ...]) -> str:
    """Say how many of the samples were scored, and in which shards."""
    if len(shards) == 1 and shards[0].of == 1:
        return f"{scored:,}, held-out ones aside"
    return f"{scored:,} of {samples:,}, held-out ones aside: shards {', '.join(map(str, shards))}"


def _row(group: GroupScores) -> tuple[str, ...]:
    known = [(value, channel) for channel, value in enumerate(group.sensitivities) if value is not None]
    order = sorted(known, key=lambda each: (-each[0], each[1]))
    ends = [
        ", ".join(f"{channel}: {value:.3g}" for value, channel in some)
        for some in (order[:ENDS], order[: -ENDS - 1 : -1])
    ]
    return group.name, str(len(group.sensitivities)), str(len(group.sensitivities) - len(known)), *ends


def _groups(scores: ScoresFile) -> Iterator[GroupScores]:
    """Yield the scores of the groups of all parts."""
    for place, part in scores.parts.items():
        values = part.sensitivities() if not part.stays else np.zeros(0)
        for group in () if part.stays else part.groups:
            found = tuple(float(values[channel]) if channel else None for channel in group.current)
            yield GroupScores(name_inside(place, group.name), found)
