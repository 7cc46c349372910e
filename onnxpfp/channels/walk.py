"""One forward walk over the nodes: every tensor gets its labels, every rule declares its ties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxpfp.channels import symbolic as entries
from onnxpfp.channels.context import Axes, Carrier, CarrierChoice, NodeContext, UnlabelledError, unlabelled
from onnxpfp.channels.labels import Labels
from onnxpfp.channels.ops import RULES, op_name
from onnxpfp.channels.shape_arithmetic import fold_node
from onnxpfp.channels.symbolic import Dim, Value
from onnxpfp.channels.types import Consumer, IndexRef, Mask, PinnedSize, SizeRef
from onnxpfp.channels.walk_input import WalkInput, domain_of
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.index import Use

__all__ = ["OVERRIDES_SINCE", "Walk", "walk"]

OVERRIDES_SINCE = 9
"""First opset with Where, which puts a known number in the place of one that is computed."""


@dataclass(slots=True, eq=False)
class Walk:
    """The result of one walk over the nodes, in labels.

    Attributes:
        labels: The labels and ties.
        axes: Labels of every dense tensor, by name.
        uses: Labels of stored vectors that several nodes read, by name and use; each use may keep
            other indices (a copy is made then).
        values: Entries of tensors that are shape arithmetic.
        consumers: Contractions of an axis.
        masks: Inputs at which zeros equal removal.
        size_refs: Numbers that count indices.
        frozen: Numbers that stay although lengths behind them may change.
        number_types: Element type of tensors that are shape arithmetic.
        choices: Reshape nodes whose labels could have gone to another axis.
    """

    labels: Labels = field(default_factory=Labels)
    axes: dict[str, Axes] = field(default_factory=dict[str, Axes])
    uses: dict[str, dict[Use, Axes]] = field(default_factory=dict[str, dict[Use, Axes]])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    masks: list[Mask] = field(default_factory=list[Mask])
    size_refs: list[SizeRef | IndexRef] = field(default_factory=list[SizeRef | IndexRef])
    frozen: list[PinnedSize] = field(default_factory=list[PinnedSize])
    number_types: dict[str, int] = field(default_factory=dict[str, int])
    choices: list[CarrierChoice] = field(default_factory=list[CarrierChoice])


def walk(walk_input: WalkInput, carriers: Mapping[int, frozenset[Carrier]]) -> Walk:
    """Label the main graph.

    Args:
        walk_input: The model; its nodes are in topological order, as ONNX demands.
        carriers: For Reshape nodes that split or merge axes: those that shall carry the labels.
    """
    state = Walk()
    _label_inputs(walk_input, state)
    for index, node in enumerate(walk_input.proto.graph.node):
        _visit(walk_input, state, index, node, carriers.get(index, frozenset()))
    for info in walk_input.proto.graph.output:
        stays = not walk_input.released or info.name in walk_input.ends
        for axis in state.axes.get(info.name, ()) if stays else ():
            state.labels.fix(axis, walk_input.ends.get(info.name, f"it is the graph output '{info.name}'"))
        value = state.values.get(info.name)
        if value is not None:
            _fix_lengths(state, value, f"its length is in the graph output '{info.name}'")
    return state


def _label_inputs(walk_input: WalkInput, state: Walk) -> None:
    """Give fresh labels to weights; numbers and what the user feeds stay."""
    state.values.update(walk_input.numbers)
    for name, shape in walk_input.stored_shapes.items():
        if name in walk_input.weights:
            state.axes[name] = tuple(state.labels.fresh(size) for size in shape)
        else:
            state.axes[name] = tuple(np.zeros(size, np.int64) for size in shape)
    for tensor in walk_input.proto.graph.sparse_initializer:
        state.axes[tensor.values.name] = tuple(np.zeros(size, np.int64) for size in tensor.dims)
    for info in walk_input.proto.graph.input:
        if info.name not in state.axes and info.name in walk_input.shapes.shape:
            shape = walk_input.shapes.shape[info.name]
            state.axes[info.name] = tuple(np.zeros(size, np.int64) for size in shape)


def _input_axes(walk_input: WalkInput, state: Walk, use: Use, name: str) -> Axes | None:
    """Labels of an input; a stored vector that several nodes read has labels of its own per use.

    Exporters merge equal vectors (biases that are all zero), which does not make them one thing.
    """
    axes = state.axes.get(name)
    shared = walk_input.readers[name] > 1 and name in walk_input.weights
    if axes is None or not shared or sum(axis.size > 1 for axis in axes) != 1:
        return axes
    own = tuple(state.labels.fresh(axis.size) for axis in axes)
    state.uses.setdefault(name, {})[use] = own
    return own


def _visit(walk_input: WalkInput, state: Walk, index: int, node: NodeProto, carriers: frozenset[Carrier]) -> None:
    if node.op_type == "Constant" and node.output[0] in state.axes:
        return
    value = fold_node(walk_input, node, state.values, state.axes)
    if value is not None:
        name = node.output[0]
        state.values[name], state.number_types[name] = value, walk_input.shapes.dtype[name]
        state.axes[name] = tuple(np.zeros(size, np.int64) for size in value.shape)
        return
    n = _context(walk_input, state, index, node, carriers)
    rule = RULES.get(op_name(node.op_type, node.domain))
    try:
        if rule is None:
            n.keep_all("has no rule")
        else:
            rule(n)
    except UnlabelledError as error:
        n.keep_all(f"depends on '{error}', whose shape or value is known at run time only")
    for name in walk_input.captures.get(index, ()):
        for axis in state.axes.get(name, ()):
            n.fix(axis, "reads it in a subgraph")
        if name in state.values:
            _fix_lengths(state, state.values[name], f"{n.title} reads its length in a subgraph")
    _collect(walk_input, state, n)


def _context(
    walk_input: WalkInput, state: Walk, index: int, node: NodeProto, carriers: frozenset[Carrier]
) -> NodeContext:
    out_shapes = [walk_input.shapes.shape.get(name) if name else None for name in node.output]
    return NodeContext(
        node=node,
        index=index,
        attributes=Attributes(node),
        opset=walk_input.opsets.get(domain_of(node), 1),
        labels=state.labels,
        inputs=[
            _input_axes(walk_input, state, (index, position), name) if name else None
            for position, name in enumerate(node.input)
        ],
        values=[state.values.get(name) for name in node.input],
        constant=[name in walk_input.constants.names for name in node.input],
        value_of=walk_input.constants.value,
        out_shapes=out_shapes,
        read=[walk_input.read[name] > 0 for name in node.output],
        carriers=carriers,
        outputs=unlabelled(out_shapes),
    )


def _collect(walk_input: WalkInput, state: Walk, n: NodeContext) -> None:
    for name, axes in zip(n.node.output, n.outputs, strict=True):
        if name and axes is not None:
            state.axes[name] = axes
    state.consumers += n.consumers
    state.masks += n.masks
    state.size_refs += n.size_refs
    state.choices += n.choices
    _tie_numbers(state, n)
    declared = {(s.where, s.place) for s in n.size_refs if isinstance(s, SizeRef)}
    stored = walk_input.stored_shapes
    indexed = {s.where for s in n.size_refs if isinstance(s, IndexRef)}
    for position, value in enumerate(n.values):
        if value is None or position in indexed:
            continue
        for index, entry in enumerate(value.ravel()):
            if (position, index) in declared or (position, None) in declared or n.node.input[position] in stored:
                continue
            if entries.is_known(entry) and walk_input.opsets.get("", 1) >= OVERRIDES_SINCE:
                state.frozen.append(PinnedSize(n.index, position, index))
            else:
                _fix_entry(state, entry, f"{n.title} reads its length as a number")


def _tie_numbers(state: Walk, n: NodeContext) -> None:
    """Tie what a number counts with the constant's axis whose length it is: the number follows by itself.

    Exporters keep a copy of a weight for its Shape alone.
    """
    for size_ref in n.size_refs:
        value = n.values[size_ref.where] if isinstance(size_ref, SizeRef) and isinstance(size_ref.where, int) else None
        if value is None or not isinstance(size_ref, SizeRef):
            continue
        entry: entries.Entry = value.ravel()[size_ref.place or 0]
        if isinstance(entry, Dim) and entry.constant:
            own = state.axes[entry.tensor][entry.axis]
            if own.size == size_ref.ids.size:
                n.tie(size_ref.ids, own)


def _fix_entry(state: Walk, entry: entries.Entry, why: str) -> None:
    for leaf in entries.leaves(entry):
        if isinstance(leaf, Dim) and leaf.tensor in state.axes:
            state.labels.fix(state.axes[leaf.tensor][leaf.axis], why)


def _fix_lengths(state: Walk, value: Value, why: str) -> None:
    for entry in value.ravel():
        _fix_entry(state, entry, why)
