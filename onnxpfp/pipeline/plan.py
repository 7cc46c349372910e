"""The plan: which indices of which weights stay, to replay on the same network or map back to a framework."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels import ChannelGraph, Unit
from onnxpfp.errors import PlanError

__all__ = ["Plan", "PlanEntry", "keep_of_plan", "make_plan"]

FORMAT = "onnxpfp-plan"
VERSION = 1


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """The kept indices of one stored tensor.

    Attributes:
        shape: Its shape before.
        keep: Kept indices by axis, ascending; axes that stay whole are missing.
        scale: Factors of the kept indices by axis, where a sampled selection reweighted them.
    """

    shape: tuple[int, ...]
    keep: Mapping[int, tuple[int, ...]]
    scale: Mapping[int, tuple[float, ...]] = field(default_factory=dict[int, tuple[float, ...]])


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: the kept indices of every stored tensor, which can be replayed.

    Attributes:
        source_sha256: Checksum of the file that it was made for.
        initializers: Entries by name; the output name for weights in Constant nodes. A vector that
            several nodes share and that was cut in different ways is left out. Such vectors follow
            from the other weights, and so replay does without them.
        groups: What was decided for each group, for people to read.
        attention: What went from an attention, "heads" or "width"; a replay takes the same.
        bodies: Entries of the weights in bodies of If, Loop and Scan, by the body's place and the weight's name.
    """

    source_sha256: str
    initializers: Mapping[str, PlanEntry]
    groups: Sequence[Mapping[str, Any]] = ()
    attention: Unit = "heads"
    bodies: Mapping[str, Mapping[str, PlanEntry]] = field(default_factory=dict[str, Mapping[str, PlanEntry]])

    def of_body(self, place: str) -> Plan:
        """Return what it says of one body."""
        return replace(self, initializers=self.bodies.get(place, {}))

    def to_json(self) -> str:
        """Write the plan as JSON."""
        bodies = {place: _raw(entries) for place, entries in self.bodies.items()}
        document = {
            "format": FORMAT,
            "version": VERSION,
            "source_sha256": self.source_sha256,
            "attention": self.attention,
            "initializers": _raw(self.initializers),
            **({"bodies": bodies} if bodies else {}),
            "groups": list(self.groups),
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: It is missing, is no plan, or is one of another version.
        """
        try:
            document: object = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise PlanError(f"{path}: is no JSON: {error}") from error
        fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if fields.get("format") != FORMAT:
            raise PlanError(f"{path}: is no plan of onnxpfp", hint="write one with --plan FILE.json")
        if fields.get("version") != VERSION:
            raise PlanError(f"{path}: is a plan of version {fields.get('version')}, not {VERSION}")
        try:
            entries = {name: _entry(entry) for name, entry in fields["initializers"].items()}
            bodies = {
                place: {name: _entry(entry) for name, entry in inner.items()}
                for place, inner in fields.get("bodies", {}).items()
            }
            unit: Unit = "width" if fields.get("attention") == "width" else "heads"
            return cls(str(fields["source_sha256"]), entries, tuple(fields.get("groups", ())), unit, bodies)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{path}: the plan is damaged: {error!r}") from error


def _raw(entries: Mapping[str, PlanEntry]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "shape": list(entry.shape),
            "keep": {str(axis): list(kept) for axis, kept in entry.keep.items()},
            **({"scale": {str(axis): list(f) for axis, f in entry.scale.items()}} if entry.scale else {}),
        }
        for name, entry in entries.items()
    }


def _entry(raw: Mapping[str, Any]) -> PlanEntry:
    return PlanEntry(
        shape=tuple(int(size) for size in raw["shape"]),
        keep={int(axis): tuple(int(i) for i in kept) for axis, kept in raw["keep"].items()},
        scale={int(axis): tuple(float(f) for f in factors) for axis, factors in raw.get("scale", {}).items()},
    )


def make_plan(
    graph: ChannelGraph,
    keep: Keep,
    *,
    sha256: str,
    scales: Mapping[str, Mapping[int, NDArray[np.float64]]],
    stored: Sequence[tuple[str, tuple[Ids, ...]]],
    groups: Sequence[Mapping[str, Any]],
    attention: Unit,
) -> Plan:
    """Write down what a choice of channels keeps of every weight.

    Args:
        graph: The channels.
        keep: Whether each stays.
        sha256: Checksum of the source file.
        scales: Factors by stored tensor and axis, for all indices of the axis, where reweighted.
        stored: The weights as they will be stored.
        groups: What was decided for each group.
        attention: What went from an attention.
    """
    entries: dict[str, PlanEntry] = {}
    conflicting: set[str] = set()
    for name, axes in stored:
        kept = {
            number: tuple(np.flatnonzero(keep[ids]).tolist()) for number, ids in enumerate(axes) if not keep[ids].all()
        }
        scale = {axis: tuple(factors[keep[axes[axis]]].tolist()) for axis, factors in scales.get(name, {}).items()}
        entry = PlanEntry(tuple(ids.size for ids in axes), kept, scale)
        if name in entries and entries[name] != entry:
            conflicting.add(name)
        entries[name] = entry
    changed = {n: e for n, e in entries.items() if (e.keep or e.scale) and n not in conflicting}
    return Plan(sha256, changed, tuple(groups), attention)


def keep_of_plan(graph: ChannelGraph, plan: Plan) -> tuple[Keep, NDArray[np.float64]]:
    """Find the channels that a plan keeps, on the network it was made for or another export of it.

    Returns:
        Whether each channel stays, and the factor of each, both by channel id.

    Raises:
        PlanError: The network lacks a weight of the plan, has it in another shape, or cannot lose
            what the plan drops.
    """
    keep = graph.keep_all()
    factor = np.ones(graph.count + 1)
    for name, entry in plan.initializers.items():
        axes = graph.axes.get(name)
        if name in graph.uses:
            continue
        if axes is None or name not in graph.stored:
            raise PlanError(
                f"the plan names the weight '{name}', which the model does not have",
                hint="replay a plan on the network it was made for, with the same weight names",
            )
        shape = tuple(ids.size for ids in axes)
        if shape != entry.shape:
            raise PlanError(f"the weight '{name}' has shape {list(shape)}, the plan says {list(entry.shape)}")
        for axis, kept in entry.keep.items():
            _drop(keep, name, axis, axes, kept)
        for axis, factors in entry.scale.items():
            kept = entry.keep.get(axis, range(shape[axis]) if 0 <= axis < len(shape) else ())
            if not kept or len(kept) != len(factors) or not all(math.isfinite(f) and f > 0 for f in factors):
                raise PlanError(f"the plan has impossible factors for axis {axis} of '{name}'")
            factor[axes[axis][list(kept)]] = factors
    _agree(graph, plan, keep)
    factor[0] = 1.0
    return keep, factor


def _drop(keep: Keep, name: str, axis: int, axes: tuple[Ids, ...], kept: tuple[int, ...]) -> None:
    if not 0 <= axis < len(axes) or not kept or not 0 <= min(kept) <= max(kept) < axes[axis].size:
        raise PlanError(f"the plan keeps impossible indices of axis {axis} of '{name}'")
    gone = np.ones(axes[axis].size, np.bool_)
    gone[list(kept)] = False
    ids = axes[axis][gone]
    if (ids == 0).any():
        raise PlanError(f"the plan drops indices of axis {axis} of '{name}' that cannot go in this model")
    keep[ids] = False


def _agree(graph: ChannelGraph, plan: Plan, keep: Keep) -> None:
    """Make sure that the dropped channels are exactly those of the plan's indices."""
    for name, entry in plan.initializers.items():
        axes = graph.axes[name]
        for axis, kept in entry.keep.items() if name not in graph.uses else ():
            if not np.array_equal(np.flatnonzero(keep[axes[axis]]), kept):
                raise PlanError(
                    f"the plan's indices of axis {axis} of '{name}' do not go together with its others",
                    hint="the plan is of another network, or was edited by hand",
                )
