"""Latency tables: what a network and its ops take at several widths on some device, as a JSON file.

    {"format": "onnxpfp-latency-table", "version": 1, "source_sha256": "...",
     "device": "...", "providers": ["CPUExecutionProvider"], "threads": 1, "batch": 1,
     "parts": {"": {"groups": {"conv1.weight": 64, ...},
                    "points": [{"multiple": 0, "widths": {}, "ms": 11.3, "ops": {"Conv_1": 0.52, ...}},
                               {"multiple": 16, "widths": {"conv1.weight": 48, ...}, "ms": 8.1, "ops": {...}}, ...]}}}

A part is the main graph (empty name) or a body of If, Loop or Scan. Each point is one choice of widths: the channels
that groups keep (those that are missing are whole), the latency of one run of the part, and, where a profile knows
them, the times of its ops by the name of the node (its first output where it has no name). The first point must be the
whole part. `multiple` says of which number all widths are multiples (narrow groups of its half, a quarter and so on, as
`onnxpfp.runtime.blocks.Alignment` has it), 0 of the whole part. In a form that is to be filled in
(`onnxpfp.pipeline.latency.form`) `ms` is null, and `model` names the file with these widths.
`docs/latency.md` describes all fields; what else stands there is an error, for it might be a misspelt one.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from onnxpfp.arrays import Ints
from onnxpfp.channels import ChannelGraph
from onnxpfp.counted import counted
from onnxpfp.errors import LatencyTableError
from onnxpfp.model.save import save_bytes
from onnxpfp.pipeline.documents import read_document
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths
from onnxpfp.pipeline.strict_fields import DamagedError, Fields
from onnxpfp.runtime.blocks import Alignment

__all__ = ["FEWEST", "UNMEASURED", "LatencyTable", "PartTable", "TablePoint", "group_names", "numbers_of", "point_of"]

FORMAT = "onnxpfp-latency-table"
VERSION = 1
FEWEST = 4
"""Points of a part that may be pruned: an op has three factors."""
LONGEST = 1e15
"""Milliseconds, or the cycles of a simulator; no run takes so many."""
UNMEASURED = math.nan
"""Milliseconds that are to be filled in."""


@dataclass(frozen=True, slots=True)
class TablePoint:
    """What was measured at one choice of widths.

    Attributes:
        multiple: The number of which all widths are multiples that are not whole, narrow groups of its half, a quarter
            and so on; 0 for the whole part.
        widths: Channels that groups keep, by name; others are whole.
        ms: Milliseconds of a run of the part; `UNMEASURED` in a form.
        ops: Those of its ops, by name; empty where they are not known.
        model: Name of the file with these widths; empty where none was written.
    """

    multiple: int
    widths: Mapping[str, int]
    ms: float
    ops: Mapping[str, float]
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in the file: nothing of what is empty, but for the widths."""
        ms = None if math.isnan(self.ms) else self.ms
        rest = {name: value for name, value in (("ops", dict(self.ops)), ("model", self.model)) if value}
        return {"multiple": self.multiple, "widths": dict(self.widths), "ms": ms, **rest}


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
                f"the latency table has nothing of the body {place}",
                hint="measure it with `onnxpfp latency` again, on data with which the body runs",
            )
        return self.parts[place]

    def to_json(self) -> str:
        """Write the table as JSON."""
        parts = {
            place: {"groups": dict(part.groups), "points": [point.to_dict() for point in part.points]}
            for place, part in self.parts.items()
        }
        document = {"format": FORMAT, "version": VERSION, **asdict(self), "parts": parts}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        save_bytes(Path(path), self.to_json().encode())

    @classmethod
    def read(cls, path: Path) -> LatencyTable:
        """Read a table.

        Raises:
            LatencyTableError: It is missing, is no table, is damaged, is not filled in, or has too few points.
        """
        raw = read_document(path, "latency table of onnxpfp", FORMAT, LatencyTableError)
        if raw.get("format") != FORMAT:
            raise LatencyTableError(
                f"{path}: is no latency table of onnxpfp", hint="make one with `onnxpfp latency IN -o FILE.json`"
            )
        if raw.get("version") != VERSION:
            raise LatencyTableError(f"{path}: is a latency table of version {raw.get('version')}, not {VERSION}")
        try:
            return _table(raw)
        except DamagedError as error:
            raise LatencyTableError(f"{path}: {error}", hint="docs/latency.md describes the fields") from error


def _table(raw: Mapping[str, Any]) -> LatencyTable:
    """Read the fields of a table.

    Raises:
        DamagedError: One is missing, is none, or has a value that cannot be.
    """
    table = Fields.of("the table", raw, ("format", "version", *(field.name for field in fields(LatencyTable))))
    parts = table.inner("parts")
    if "" not in parts.raw:
        raise DamagedError("'parts' of the table has no main graph, whose name is empty")
    providers = table.listed("providers") if "providers" in raw else []
    return LatencyTable(
        source_sha256=table.text("source_sha256"),
        device=table.text("device"),
        providers=tuple(map(str, providers)),
        threads=None if raw.get("threads") is None else table.count("threads", 1),
        batch=table.count("batch", 1) if "batch" in raw else 1,
        parts={place: _part(place, part) for place, part in parts.raw.items()},
    )


def _part(place: str, given: object) -> PartTable:
    """Read one part.

    Raises:
        DamagedError: It has too few points, or something that cannot be.
    """
    title = f"the body {place}" if place else "the main graph"
    part = Fields.of(title, given, [field.name for field in fields(PartTable)])
    groups = dict(part.inner("groups").counts())
    points = [_point(f"point {n} of {title}", point, groups) for n, point in enumerate(part.listed("points"))]
    if not points or any(points[0].widths.get(name, size) != size for name, size in groups.items()):
        raise DamagedError(f"the first point of {title} is not the whole part")
    if groups and len(points) < FEWEST:
        raise DamagedError(f"{title} has {counted(len(points), 'point')}, and it takes {FEWEST}")
    other = next((n for n, point in enumerate(points) if bool(point.ops) != bool(points[0].ops)), None)
    if other is not None:
        one, none = (0, other) if points[0].ops else (other, 0)
        raise DamagedError(f"point {one} of {title} has 'ops' and point {none} has none: give those of all, or of none")
    return PartTable(groups, tuple(points))


def _in_steps(width: int, size: int, multiple: int) -> bool:
    """Tell whether a width is a multiple, or one of the smaller steps that a narrow group has."""
    return width % multiple == 0 or width % Alignment(multiple, "", "measured").of_group(size) == 0


def _point(title: str, given: object, groups: Mapping[str, int]) -> TablePoint:
    """Read one point.

    Raises:
        DamagedError: It has something that cannot be.
    """
    point = Fields.of(title, given, [field.name for field in fields(TablePoint)])
    multiple = point.count("multiple", 0) if "multiple" in point.raw else 1
    widths = dict(point.inner("widths").counts())
    for name, width in widths.items():
        size = groups.get(name, 0)
        if width > size:
            raise DamagedError(f"'{name}' has {width} channels at {title}, and {size} in 'groups'")
        if width < size and not (multiple and _in_steps(width, size, multiple)):
            raise DamagedError(f"'{name}' has {width} channels at {title}, no multiple of {multiple}")
    model = point.text("model")
    if point.needed("ms") is None:
        raise DamagedError(f"'ms' of {title}{f' ({model})' if model else ''} is not filled in")
    ms = point.number("ms", LONGEST)
    if not ms:
        raise DamagedError(f"'ms' of {title} is 0, and no run takes nothing")
    ops = point.inner("ops") if "ops" in point.raw else Fields(title, {})
    return TablePoint(multiple, widths, ms, {name: ops.number(name, LONGEST) for name in ops.raw}, model)


def group_names(graph: ChannelGraph) -> list[str]:
    """Return the names of groups; those that have one in common are numbered from the second on."""
    seen = Counter[str]()
    names: list[str] = []
    for group in graph.groups:
        seen[group.name] += 1
        names.append(group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}")
    return names


def point_of(graph: ChannelGraph, multiple: int, measured: MeasuredWidths, model: str = "") -> TablePoint:
    """Say what was measured in terms of the names of groups, and in which file these widths are."""
    rows: list[tuple[str, int, int]] = [
        (name, int(group.channels.size), width)
        for name, group, width in zip(group_names(graph), graph.groups, numbers_of(measured.kept), strict=True)
    ]
    widths = {name: width for name, size, width in rows if width < size}
    return TablePoint(multiple, widths, measured.ms, measured.ops, model)


def numbers_of(kept: Ints) -> Sequence[int]:
    """Return widths as numbers of Python."""
    return kept.tolist()
