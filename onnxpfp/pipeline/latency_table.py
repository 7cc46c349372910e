"""Latency tables: what a network and its ops take at several widths on some device, as a JSON file.

    {"format": "onnxpfp-latency-table", "version": 1, "source_sha256": "...",
     "device": "...", "providers": ["CPUExecutionProvider"], "threads": 1, "batch": 1,
     "parts": {"": {"groups": {"conv1.weight": 64, ...},
                    "points": [{"multiple": 0, "widths": {}, "ms": 11.3, "ops": {"Conv_1": 0.52, ...}},
                               {"multiple": 16, "widths": {"conv1.weight": 48, ...}, "ms": 8.1, "ops": {...}}, ...]}}}

A part is the main graph (empty name) or a body of If, Loop or Scan. Each point is one choice of widths: the channels
that groups keep (those that are missing are whole), the latency of one run of the part, and, where a profile knows
them, the times of its ops by the name of the node (its first output where it has no name). The first point must be the
whole part. `multiple` says of which number all widths are multiples, 0 of the whole part.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxpfp.arrays import Ints
from onnxpfp.channels import ChannelGraph
from onnxpfp.errors import LatencyTableError
from onnxpfp.pipeline.documents import read_document, whole_number
from onnxpfp.pipeline.op_latencies import MeasuredWidths

__all__ = ["FEWEST", "LatencyTable", "PartTable", "TablePoint", "group_names", "point_of"]

FORMAT = "onnxpfp-latency-table"
VERSION = 1
FEWEST = 4
"""Points of a part that may be pruned: an op has three factors."""


@dataclass(frozen=True, slots=True)
class TablePoint:
    """What was measured at one choice of widths.

    Attributes:
        multiple: The number of which all widths are multiples that are not whole; 0 for the whole part.
        widths: Channels that groups keep, by name; others are whole.
        ms: Milliseconds of a run of the part.
        ops: Those of its ops, by name; empty where they are not known.
    """

    multiple: int
    widths: Mapping[str, int]
    ms: float
    ops: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PartTable:
    """The points of the main graph, or of a body.

    Attributes:
        groups: Channels of every group by name.
        points: What was measured, the whole part first.
    """

    groups: Mapping[str, int]
    points: tuple[TablePoint, ...]

    def measured(self, graph: ChannelGraph) -> list[MeasuredWidths]:
        """Return the points in terms of the channels of a graph.

        Raises:
            LatencyTableError: They are of other groups.
        """
        sizes = dict(zip(group_names(graph), (group.channels.size for group in graph.groups), strict=True))
        other = next((name for name, size in self.groups.items() if sizes.get(name) != size), None)
        if other is not None:
            has = f"{sizes[other]} channels" if other in sizes else "no channels that can go together"
            raise LatencyTableError(
                f"the latency table has a group '{other}' of {self.groups[other]} channels, the model has {has} there",
                hint="measure the table with the same model, --attention, --include and --exclude",
            )
        return [
            MeasuredWidths(
                np.array([point.widths.get(name, size) for name, size in sizes.items()]), point.ms, point.ops
            )
            for point in self.points
        ]


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """A latency table.

    Attributes:
        source_sha256: Checksum of the file that was measured.
        device: What it was measured on, for people to read.
        providers: Where onnxruntime ran.
        threads: Of onnxruntime; None is its own choice.
        batch: Samples in a run.
        parts: The main graph under an empty name, bodies by their place.
    """

    source_sha256: str
    device: str
    providers: tuple[str, ...]
    threads: int | None
    batch: int
    parts: Mapping[str, PartTable]

    @property
    def ms(self) -> float:
        """Milliseconds of a run of the whole network."""
        return self.parts[""].points[0].ms

    def part(self, place: str) -> PartTable:
        """Return the points of one part.

        Raises:
            LatencyTableError: It has none.
        """
        if place not in self.parts:
            raise LatencyTableError(
                f"the latency table has nothing of the body {place}", hint="measure it with `onnxpfp latency` again"
            )
        return self.parts[place]

    def to_json(self) -> str:
        """Write the table as JSON."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a table.

        Raises:
            LatencyTableError: It is missing, is no table, is damaged, or has too few points.
        """
        fields = read_document(path, "latency table", LatencyTableError)
        if fields.get("format") != FORMAT:
            raise LatencyTableError(
                f"{path}: is no latency table of onnxpfp", hint="make one with `onnxpfp latency IN -o FILE.json`"
            )
        if fields.get("version") != VERSION:
            raise LatencyTableError(f"{path}: is a latency table of version {fields.get('version')}, not {VERSION}")
        try:
            threads = fields.get("threads")
            return cls(
                source_sha256=str(fields["source_sha256"]),
                device=str(fields.get("device", "")),
                providers=tuple(map(str, fields.get("providers", ()))),
                threads=None if threads is None else whole_number(threads),
                batch=whole_number(fields.get("batch", 1)),
                parts={place: _part(place, fields["parts"][place]) for place in {"": 0, **fields["parts"]}},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LatencyTableError(f"{path}: the latency table is damaged: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _part(place: str, raw: Mapping[str, Any]) -> PartTable:
    """Read one part.

    Raises:
        ValueError: It has too few points, or numbers that cannot be.
    """
    groups = {str(name): whole_number(size) for name, size in raw["groups"].items()}
    points = tuple(_point(point, groups) for point in raw["points"])
    title = f"the body {place}" if place else "the main graph"
    if not points or any(points[0].widths.get(name, size) != size for name, size in groups.items()):
        raise ValueError(f"the first point of {title} is not the whole part")
    if groups and len(points) < FEWEST:
        raise ValueError(f"{title} has {len(points)} points, and it takes {FEWEST}")
    return PartTable(groups, points)


def _point(raw: Mapping[str, Any], groups: Mapping[str, int]) -> TablePoint:
    widths = {str(name): whole_number(width) for name, width in raw["widths"].items()}
    for name, width in widths.items():
        if not 1 <= width <= groups.get(name, 0):
            raise ValueError(f"a width of '{name}' is {width}, and it has {groups.get(name, 0)} channels")
    ms, ops = _milliseconds(raw["ms"]), {str(name): _milliseconds(each) for name, each in raw.get("ops", {}).items()}
    if not ms > 0:
        raise ValueError(f"a latency is {ms:g} ms")
    return TablePoint(whole_number(raw.get("multiple", 1)), widths, ms, ops)


def _milliseconds(value: object) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{value!r} is no number of milliseconds")
    return number


def group_names(graph: ChannelGraph) -> list[str]:
    """Return the names of groups; those that have one in common are numbered from the second on."""
    seen = Counter[str]()
    names: list[str] = []
    for group in graph.groups:
        seen[group.name] += 1
        names.append(group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}")
    return names


def point_of(graph: ChannelGraph, multiple: int, measured: MeasuredWidths) -> TablePoint:
    """Say what was measured in terms of the names of groups."""
    rows: list[tuple[str, int, int]] = [
        (name, int(group.channels.size), width)
        for name, group, width in zip(group_names(graph), graph.groups, _numbers(measured.kept), strict=True)
    ]
    widths = {name: width for name, size, width in rows if width < size}
    return TablePoint(multiple, widths, measured.ms, measured.ops)


def _numbers(kept: Ints) -> Sequence[int]:
    return kept.tolist()
