"""The plan: which indices of which weights stay, to replay on the same network or map back to a framework."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels import Analysis, ChannelGraph, Unit
from onnxpfp.channels.branches import obstacle_of
from onnxpfp.channels.class_axes import ClassAxis
from onnxpfp.channels.file_axes import FileAxes
from onnxpfp.errors import PlanError
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.pipeline.documents import read_document, read_made_by, whole_number

__all__ = ["Plan", "PlanEntry", "PlannedClasses", "keep_of_plan", "make_plan"]

FORMAT = "onnxpfp-plan"
VERSIONS = (1, 2, 3, 4)
"""2 where a plan names computed weights; 3 where it gives layers a rank, or keeps nothing of some axis; 4 where classes
go: more than programs know that read less."""


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
class PlannedClasses:
    """The classes that stay of the outputs.

    Attributes:
        kept: The classes, ascending.
        axes: The indices of outputs that are classes; there are as many on each.
    """

    kept: tuple[int, ...]
    axes: tuple[ClassAxis, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan: the kept indices of every stored tensor, which can be replayed.

    Attributes:
        source_sha256: Checksum of the file that it was made for.
        initializers: Entries by name; the output name for weights in Constant nodes. A vector that
            several nodes share and that was cut in different ways is left out. Such vectors follow
            from the other weights, and so replay does without them. Of weights that the graph computes, what
            the file stores of them, at the indices that they follow.
        computed: Entries of weights that the file does not store under a name of its main graph, and that its
            initializers do not tell all about: those that the graph computes along axes that cannot be followed or
            whose columns are scaled, and constants of local functions and of branches.
        groups: What was decided for each group, for people to read.
        attention: What went from an attention, "heads" or "width"; a replay takes the same.
        bodies: Entries of the weights in bodies of If, Loop and Scan, by the body's place and the weight's name.
        ranks: Scheme and rank of the layers that become two, by the name of their weight.
        made_by: Target, options and agreement of the pruning that it was made in, as the file notes them, and the
            checksum of that file without these notes: a replay that gives the same file notes the same.
        classes: The classes that stay of the outputs; None where all do. What goes of the weights with the others is
            among the entries.
    """

    source_sha256: str
    initializers: Mapping[str, PlanEntry]
    groups: Sequence[Mapping[str, Any]] = ()
    attention: Unit = "heads"
    computed: Mapping[str, PlanEntry] = field(default_factory=dict[str, PlanEntry])
    bodies: Mapping[str, Mapping[str, PlanEntry]] = field(default_factory=dict[str, Mapping[str, PlanEntry]])
    ranks: Mapping[str, Choice] = field(default_factory=dict[str, Choice])
    made_by: Mapping[str, str] = field(default_factory=dict[str, str])
    classes: PlannedClasses | None = None

    @property
    def entries(self) -> dict[str, PlanEntry]:
        """All entries of the main graph by name."""
        return {**self.initializers, **self.computed}

    def of_body(self, place: str) -> Plan:
        """Return what it says of one body."""
        return replace(self, initializers=self.bodies.get(place, {}), computed={}, ranks={}, classes=None)

    @property
    def _version(self) -> int:
        """The first version that says all of it."""
        if self.classes is not None:
            return 4
        entries = [*self.entries.values(), *(entry for inner in self.bodies.values() for entry in inner.values())]
        if self.ranks or any(not kept for entry in entries for kept in entry.keep.values()):
            return 3
        return 2 if self.computed or self.bodies else 1

    def to_json(self) -> str:
        """Write the plan as JSON."""
        bodies = {place: _to_json(entries) for place, entries in self.bodies.items()}
        document = {
            "format": FORMAT,
            "version": self._version,
            "source_sha256": self.source_sha256,
            **({"made_by": dict(self.made_by)} if self.made_by else {}),
            "attention": self.attention,
            **({"classes": asdict(self.classes)} if self.classes else {}),
            "initializers": _to_json(self.initializers),
            **({"computed": _to_json(self.computed)} if self.computed else {}),
            **({"bodies": bodies} if bodies else {}),
            **({"ranks": {name: asdict(choice) for name, choice in self.ranks.items()}} if self.ranks else {}),
            "groups": list(self.groups),
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: It is missing, is no plan, or is one of another version.
        """
        fields = read_document(path, "plan of onnxpfp", FORMAT, PlanError)
        if fields.get("format") != FORMAT:
            raise PlanError(f"{path}: is no plan of onnxpfp", hint="write one with --plan FILE.json")
        if fields.get("version") not in VERSIONS:
            known = f"{', '.join(map(str, VERSIONS[:-1]))} or {VERSIONS[-1]}"
            raise PlanError(f"{path}: is a plan of version {fields.get('version')}, not {known}")
        try:
            entries, computed = (
                {name: _entry(entry) for name, entry in section.items()}
                for section in (fields["initializers"], fields.get("computed", {}))
            )
            bodies = {
                place: {name: _entry(entry) for name, entry in inner.items()}
                for place, inner in fields.get("bodies", {}).items()
            }
            unit: Unit = "width" if fields.get("attention") == "width" else "heads"
            groups = tuple(fields.get("groups", ()))
            ranks = {name: _choice(raw) for name, raw in fields.get("ranks", {}).items()}
            classes = None if fields.get("classes") is None else _classes(fields["classes"])
            return cls(
                source_sha256=str(fields["source_sha256"]),
                initializers=entries,
                groups=groups,
                attention=unit,
                computed=computed,
                bodies=bodies,
                ranks=ranks,
                made_by=read_made_by(fields),
                classes=classes,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PlanError(f"{path}: the plan is damaged: {error!r}") from error


def _classes(raw: Mapping[str, Any]) -> PlannedClasses:
    kept = tuple(map(whole_number, raw["kept"]))
    axes = tuple(
        ClassAxis(
            str(axis["output"]),
            *(whole_number(axis[name]) for name in ("axis", "first", "count", "length")),
            blocks=whole_number(axis.get("blocks", 1)),
        )
        for axis in raw["axes"]
    )
    if not kept or not axes or list(kept) != sorted(set(kept)) or kept[0] < 0:
        raise ValueError("the classes are no ascending numbers, or on no axis")
    for axis in axes:
        if axis.blocks < 1 or axis.length % axis.blocks:
            raise ValueError(f"axis {axis.axis} of '{axis.output}' has no {axis.blocks} blocks of one length")
        if axis.axis < 0 or axis.first < 0 or kept[-1] >= axis.count or axis.first + axis.count > axis.every:
            raise ValueError(f"the classes do not fit on axis {axis.axis} of '{axis.output}'")
        if axis.count != axes[0].count:
            raise ValueError("the outputs have different numbers of classes")
    return PlannedClasses(kept, axes)


def _choice(raw: Mapping[str, Any]) -> Choice:
    cut, rank = whole_number(raw["cut"]), whole_number(raw["rank"])
    if rank < 1:
        raise ValueError(f"rank {rank} is below 1")
    return Choice(cut, rank)


def _to_json(entries: Mapping[str, PlanEntry]) -> dict[str, Any]:
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
        shape=tuple(map(whole_number, raw["shape"])),
        keep={int(axis): tuple(map(whole_number, kept)) for axis, kept in raw["keep"].items()},
        scale={int(axis): tuple(float(f) for f in factors) for axis, factors in raw.get("scale", {}).items()},
    )


def make_plan(
    weights: FileAxes,
    keep: Keep,
    *,
    sha256: str,
    scales: Mapping[str, Mapping[int, NDArray[np.float64]]],
    groups: Sequence[Mapping[str, Any]],
    attention: Unit,
) -> Plan:
    """Write down what a choice of channels keeps of every weight.

    Args:
        weights: The channels of what the file stores.
        keep: Whether each stays.
        sha256: Checksum of the source file.
        scales: Factors by weight and axis, for all indices of the axis, where reweighted.
        groups: What was decided for each group.
        attention: What went from an attention.
    """
    # What the factors of a computed weight would be for what it is computed from depends on how.
    scaled = [(name, axes) for name, axes in weights.followed if name in scales]
    initializers, computed = (_entries(some, keep, scales) for some in (weights.stored, (*weights.computed, *scaled)))
    return Plan(sha256, initializers, tuple(groups), attention, computed)


def _entries(
    weights: Iterable[tuple[str, tuple[Ids, ...]]],
    keep: Keep,
    scales: Mapping[str, Mapping[int, NDArray[np.float64]]],
) -> dict[str, PlanEntry]:
    """Write down what stays of weights, but for those that lose nothing, or not the same for all that read them."""
    entries: dict[str, PlanEntry] = {}
    conflicting: set[str] = set()
    for name, axes in weights:
        kept = {
            number: tuple(np.flatnonzero(keep[ids]).tolist()) for number, ids in enumerate(axes) if not keep[ids].all()
        }
        factors_by_axis = {axis: factors[keep[axes[axis]]] for axis, factors in scales.get(name, {}).items()}
        scale = {axis: tuple(factors.tolist()) for axis, factors in factors_by_axis.items() if factors.size}
        entry = PlanEntry(tuple(ids.size for ids in axes), kept, scale)
        if name in entries and entries[name] != entry:
            conflicting.add(name)
        entries[name] = entry
    return {n: e for n, e in entries.items() if (e.keep or e.scale) and n not in conflicting}


def keep_of_plan(analysis: Analysis, weights: FileAxes, plan: Plan) -> tuple[Keep, NDArray[np.float64]]:
    """Find the channels that a plan keeps, on the network it was made for or another export of it.

    Args:
        analysis: The network.
        weights: Those of what the file stores.
        plan: The plan.

    Returns:
        Whether each channel stays, and the factor of each, both by channel id.

    Raises:
        PlanError: The network lacks a weight of the plan, has it in another shape, or cannot lose
            what the plan drops.
    """
    graph = analysis.graph
    keep = graph.keep_all()
    factor = np.ones(graph.count + 1)
    known = _by_name(graph, weights)
    for name, entry in plan.entries.items():
        axes = known.get(name)
        if name in graph.uses:
            continue
        if axes is None:
            raise PlanError(
                f"the plan names the weight '{name}', which the model does not have",
                hint="replay a plan on the network it was made for, with the same weight names",
            )
        shape = tuple(ids.size for ids in axes)
        if shape != entry.shape:
            raise PlanError(
                f"the weight '{name}' has shape {list(shape)}, the plan says {list(entry.shape)}",
                hint="replay a plan on the network it was made for, not on what came out of it",
            )
        for axis, kept in entry.keep.items():
            _drop(keep, name, axis, axes, kept)
        for axis, factors in entry.scale.items():
            kept = entry.keep.get(axis, range(shape[axis]) if 0 <= axis < len(shape) else ())
            if not kept or len(kept) != len(factors) or not all(math.isfinite(f) and f > 0 for f in factors):
                raise PlanError(f"the plan has impossible factors for axis {axis} of '{name}'")
            factor[axes[axis][list(kept)]] = factors
    _agree(known, plan, keep)
    obstacle = obstacle_of(analysis, keep)
    if obstacle:
        raise PlanError(
            f"the plan keeps no index of an axis of which something must stay in this model: {obstacle}",
            hint="the plan is of another network, or was edited by hand",
        )
    factor[0] = 1.0
    return keep, factor


def _by_name(graph: ChannelGraph, weights: FileAxes) -> dict[str, tuple[Ids, ...]]:
    """Return the channels of every weight that a plan may name; a vector that several nodes share has several."""
    # Plans of before name computed weights among the initializers.
    named = (*weights.stored, *weights.computed, *weights.followed)
    return {name: axes for name, axes in named if name not in graph.uses}


def _drop(keep: Keep, name: str, axis: int, axes: tuple[Ids, ...], kept: tuple[int, ...]) -> None:
    if not 0 <= axis < len(axes) or not 0 <= min(kept, default=0) <= max(kept, default=0) < axes[axis].size:
        raise PlanError(f"the plan keeps impossible indices of axis {axis} of '{name}'")
    gone = np.ones(axes[axis].size, np.bool_)
    gone[list(kept)] = False
    ids = axes[axis][gone]
    if (ids == 0).any():
        raise PlanError(f"the plan drops indices of axis {axis} of '{name}' that cannot go in this model")
    keep[ids] = False


def _agree(known: Mapping[str, tuple[Ids, ...]], plan: Plan, keep: Keep) -> None:
    """Make sure that the dropped channels are exactly those of the plan's indices."""
    for name, entry in plan.entries.items():
        axes = known.get(name, ())
        for axis, kept in entry.keep.items() if axes else ():
            if not np.array_equal(np.flatnonzero(keep[axes[axis]]), kept):
                raise PlanError(
                    f"the plan's indices of axis {axis} of '{name}' do not go together with its others",
                    hint="the plan is of another network, or was edited by hand",
                )
