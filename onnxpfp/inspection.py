"""What could be pruned of a model, what lies behind it, and why the rest stays; nothing is pruned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from onnx import ModelProto

from onnxpfp.channels import Fixed
from onnxpfp.config import Options
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.model.load import Source, load
from onnxpfp.pipeline.behind import Amount, Weight, behind_axes, behind_groups, totals, weigh
from onnxpfp.pipeline.prepare import Prepared, open_model, read_data, understand
from onnxpfp.report.reasons import by_kind
from onnxpfp.report.types import plain

__all__ = ["Amount", "InspectedGroup", "Inspection", "NodeName", "Stay", "inspect"]

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
    behind: Amount
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
    behind: Amount
    stuck: Amount


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
    total: Amount
    reachable: Amount
    groups: tuple[InspectedGroup, ...]
    stays: tuple[Stay, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/inspect.md` describes the fields."""
        found: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain(asdict(self))}
        return found


def inspect(
    model: ModelProto | str | os.PathLike[str],
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    attention: Literal["heads", "width"] = "heads",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Inspection:
    """Find what of a model could be pruned, and why the rest could not.

    Args:
        model: A path or a model object; it is not changed.
        input_shapes: Shapes of inputs with free axes; sensible ones are taken for the others.
        attention: As in `onnxpfp.prune`.
        include: As in `onnxpfp.prune`.
        exclude: As in `onnxpfp.prune`.

    Raises:
        OnnxPfpError: Something is wrong with the model or the options; its children in `onnxpfp.errors` say which.
    """
    source = load(model)
    options = Options(
        input_shapes=input_shapes or {}, attention=attention, include=tuple(include), exclude=tuple(exclude)
    )
    prepared = _understand(source, options)
    total, reachable = totals(prepared)
    return Inspection(
        file=str(source.path) if source.path else None,
        opsets={o.domain or "ai.onnx": o.version for o in source.model.opset_import},
        ir_version=source.model.ir_version,
        nodes=len(source.model.graph.node),
        inputs=dict(prepared.shapes.inputs),
        attention=attention,
        total=total,
        reachable=reachable,
        groups=_groups(prepared, total),
        stays=_stays(prepared.graph.fixed, weigh(prepared), total),
    )


def _understand(source: Source, options: Options) -> Prepared:
    """Analyse a model, also one that onnxruntime does not run, as long as that is not needed to find its shapes.

    Raises:
        ModelError: It is broken.
    """
    try:
        return understand(source, options.input_shapes, options)
    except OptionError:
        raise
    except Exception:
        # Whatever a broken model made fail, onnxruntime says what is wrong with it; if it runs the model, we failed.
        session, _ = open_model(source, options)
        # Inputs of text cannot be made up.
        with contextlib.suppress(CalibrationError):
            read_data(source, session, None, options)
        raise


def _groups(prepared: Prepared, total: Amount) -> tuple[InspectedGroup, ...]:
    graph = prepared.graph
    found = [
        InspectedGroup(
            name=group.name,
            channels=int(group.channels.size),
            behind=amount,
            consumers=tuple(NodeName(graph.consumers[c].op, graph.consumers[c].name) for c in group.consumers),
        )
        for group, amount in zip(graph.groups, behind_groups(prepared), strict=True)
    ]
    return tuple(sorted(found, key=lambda group: -group.behind.share_of(total)))


def _stays(axes: Sequence[Fixed], weights: Mapping[str, Weight], total: Amount) -> tuple[Stay, ...]:
    largest_first = sorted(axes, key=lambda fixed: -behind_axes([fixed], weights)[0].params)
    found = [Stay(reason, tuple(same), *behind_axes(same, weights)) for reason, same in by_kind(largest_first).items()]
    return tuple(sorted(found, key=lambda stay: -stay.behind.share_of(total)))
