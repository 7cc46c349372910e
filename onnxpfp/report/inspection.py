"""What could be pruned of a model, what lies behind it, and why the rest stays, as values for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.channels import Fixed
from onnxpfp.pipeline.footprint import Footprint
from onnxpfp.report.json_form import plain

__all__ = ["InspectedGroup", "Inspection", "NodeName", "Stay"]

FORMAT = "onnxpfp-inspection"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node.

    Attributes:
        op: Its op type.
        name: Its name, or its first output where it has none.
    """

    op: str
    name: str


@dataclass(frozen=True, slots=True)
class InspectedGroup:
    """Channels that compete with each other.

    Attributes:
        name: The weight that brings them forth.
        channels: How many there are.
        behind: What would go if none of them stayed. A number lies in the groups of all its axes, so the groups add up
            to more than the model.
        consumers: The nodes that read them.
    """

    name: str
    channels: int
    behind: Footprint
    consumers: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class Stay:
    """Axes of weights that stay for reasons of one kind.

    Attributes:
        reason: The kind: the reasons without the names in them.
        axes: The axes, each with its own reason; those with the most parameters first.
        behind: What lies on their indices that stay. A number may lie on several such axes, and in a channel too.
        stuck: What of these weights lies in no channel at all.
    """

    reason: str
    axes: tuple[Fixed, ...]
    behind: Footprint
    stuck: Footprint


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known about a model before it is pruned.

    Attributes:
        file: The file, or None for a model that was given as an object.
        opsets: Version of every domain; the domain of ONNX is ai.onnx.
        ir_version: Version of the file format.
        nodes: How many nodes the main graph has.
        inputs: The input shapes at which shapes were found and MACs were counted.
        attention: What goes from an attention: whole heads, or the same part of every head (width).
        total: The whole model.
        reachable: What of it lies in at least one channel, and so can go.
        groups: The groups of channels, the most expensive first: by share of parameters plus share of MACs.
        stays: What stays and why, in the same order.
    """

    file: str | None
    opsets: Mapping[str, int]
    ir_version: int
    nodes: int
    inputs: Mapping[str, tuple[int, ...]]
    attention: str
    total: Footprint
    reachable: Footprint
    groups: tuple[InspectedGroup, ...]
    stays: tuple[Stay, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/inspect.md` describes the fields."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain(asdict(self))}
        return document
