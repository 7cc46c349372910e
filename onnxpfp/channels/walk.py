"""One forward walk over the nodes: every tensor gets its labels, every rule declares its ties."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.channels import values as entries
from onnxpfp.channels.context import Axes, Carrier, Choice, NodeContext, UnlabelledError, unlabelled
from onnxpfp.channels.labels import Labels
from onnxpfp.channels.ops import RULES
from onnxpfp.channels.types import Consumer, IndexSpell, Mask, Spell
from onnxpfp.channels.values import Const, Dim, Value
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import INTEGERS, Constants, outer_names, reader_counts
from onnxpfp.model.shapes import Shapes

__all__ = ["Use", "Walk", "walk"]

FEW = 8
"""Numbers; a longer tensor of floats is no shape arithmetic."""
Use = tuple[int, int]
"""Node position and input position."""


@dataclass(slots=True, eq=False)
class Walk:
    """What one walk finds, in labels.

    Attributes:
        labels: The labels and ties.
        axes: Labels of every dense tensor, by name.
        uses: Labels of stored vectors that several nodes read, by name and use; each use may keep
            other indices (a copy is made then).
        values: Entries of tensors that are shape arithmetic.
        consumers: Contractions of an axis.
        masks: Inputs at which zeros equal removal.
        spells: Numbers that count indices.
        choices: Reshape nodes whose labels could have gone to another axis.
    """

    labels: Labels = field(default_factory=Labels)
    axes: dict[str, Axes] = field(default_factory=dict[str, Axes])
    uses: dict[str, dict[Use, Axes]] = field(default_factory=dict[str, dict[Use, Axes]])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    masks: list[Mask] = field(default_factory=list[Mask])
    spells: list[Spell | IndexSpell] = field(default_factory=list[Spell | IndexSpell])
    choices: list[Choice] = field(default_factory=list[Choice])


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """What a walk reads."""

    proto: ModelProto
    shapes: Shapes
    constants: Constants
    weights: frozenset[str]
    opsets: Mapping[str, int]
    readers: Counter[str]
    read: Counter[str]
    carriers: Mapping[int, frozenset[Carrier]]


def walk(
    proto: ModelProto,
    shapes: Shapes,
    constants: Constants,
    carriers: Mapping[int, frozenset[Carrier]],
) -> Walk:
    """Label the main graph.

    Args:
        proto: The model; its nodes are in topological order, as ONNX demands.
        shapes: Concrete shapes of its tensors.
        constants: Its constants.
        carriers: For Reshape nodes that split or merge axes: those that shall carry the labels.
    """
    readers = reader_counts(proto.graph)
    read = readers + Counter(info.name for info in proto.graph.output)
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in proto.opset_import}
    model = _Model(proto, shapes, constants, frozenset(constants.weights), opsets, readers, read, carriers)
    state = Walk()
    _label_inputs(model, state)
    for index, node in enumerate(proto.graph.node):
        _visit(model, state, index, node)
    for info in proto.graph.output:
        for axis in state.axes.get(info.name, ()):
            state.labels.fix(axis, f"it is the graph output '{info.name}'")
        value = state.values.get(info.name)
        if value is not None:
            _fix_lengths(state, value, f"its length is in the graph output '{info.name}'")
    return state


def _label_inputs(model: _Model, state: Walk) -> None:
    for name, tensor in model.constants.stored.items():
        shape = tuple(tensor.dims)
        if name not in model.weights:
            state.axes[name] = tuple(np.zeros(size, np.int64) for size in shape)
            if tensor.data_type != TensorProto.STRING and int(np.prod(shape)) <= entries.LARGEST:
                state.values[name] = entries.constant(name, model.constants.value(name))
        else:
            state.axes[name] = tuple(state.labels.fresh(size) for size in shape)
    for tensor in model.proto.graph.sparse_initializer:
        state.axes[tensor.values.name] = tuple(np.zeros(size, np.int64) for size in tensor.dims)
    for info in model.proto.graph.input:
        if info.name not in state.axes and info.name in model.shapes.shape:
            shape = model.shapes.shape[info.name]
            state.axes[info.name] = tuple(np.zeros(size, np.int64) for size in shape)


def _input_axes(model: _Model, state: Walk, use: Use, name: str) -> Axes | None:
    """Labels of an input; a stored vector that several nodes read has labels of its own per use.

    Exporters merge equal vectors (biases that are all zero), which does not make them one thing.
    """
    axes = state.axes.get(name)
    shared = model.readers[name] > 1 and name in model.weights
    if axes is None or not shared or sum(axis.size > 1 for axis in axes) != 1:
        return axes
    own = tuple(state.labels.fresh(axis.size) for axis in axes)
    state.uses.setdefault(name, {})[use] = own
    return own


def _visit(model: _Model, state: Walk, index: int, node: NodeProto) -> None:
    if node.op_type == "Constant" and node.output[0] in state.axes:
        return
    if _fold(model, state, node):
        return
    n = _context(model, state, index, node)
    domain = _domain(node)
    rule = RULES.get(f"{domain}:{node.op_type}" if domain else node.op_type)
    try:
        if rule is None:
            n.keep_all("has no rule")
        else:
            rule(n)
    except UnlabelledError as error:
        n.keep_all(f"depends on '{error}', whose shape or value is known at run time only")
    for name in outer_names(node):
        for axis in state.axes.get(name, ()):
            n.fix(axis, "reads it in a subgraph")
        if name in state.values:
            _fix_lengths(state, state.values[name], f"{n.title} reads its length in a subgraph")
    _collect(state, n)


def _context(model: _Model, state: Walk, index: int, node: NodeProto) -> NodeContext:
    out_shapes = [model.shapes.shape.get(name) if name else None for name in node.output]
    return NodeContext(
        node=node,
        index=index,
        attributes=Attributes(node),
        opset=model.opsets.get(_domain(node), 1),
        labels=state.labels,
        inputs=[
            _input_axes(model, state, (index, position), name) if name else None
            for position, name in enumerate(node.input)
        ],
        values=[state.values.get(name) for name in node.input],
        constant=[name in model.constants.names for name in node.input],
        value_of=model.constants.value,
        out_shapes=out_shapes,
        read=[model.read[name] > 0 for name in node.output],
        carriers=model.carriers.get(index, frozenset()),
        outputs=unlabelled(out_shapes),
    )


def _domain(node: NodeProto) -> str:
    """The domain of a node's op; that of ONNX itself has two names."""
    return "" if node.domain == "ai.onnx" else node.domain


def _collect(state: Walk, n: NodeContext) -> None:
    for name, axes in zip(n.node.output, n.outputs, strict=True):
        if name and axes is not None:
            state.axes[name] = axes
    state.consumers += n.consumers
    state.masks += n.masks
    state.spells += n.spells
    state.choices += n.choices
    _tie_numbers(state, n)
    spelt = {(s.where, s.place) for s in n.spells if isinstance(s, Spell)}
    for position, value in enumerate(n.values):
        if value is None:
            continue
        for place, entry in enumerate(value.ravel()):
            if (position, place) not in spelt and (position, None) not in spelt:
                _fix_entry(state, entry, f"{n.title} reads its length as a number")


def _tie_numbers(state: Walk, n: NodeContext) -> None:
    """Tie what a number counts with the constant's axis whose length it is: the number follows by itself.

    Exporters keep a copy of a weight for its Shape alone.
    """
    for spell in n.spells:
        value = n.values[spell.where] if isinstance(spell, Spell) and isinstance(spell.where, int) else None
        if value is None or not isinstance(spell, Spell):
            continue
        entry: entries.Entry = value.ravel()[spell.place or 0]
        if isinstance(entry, Dim) and entry.constant:
            own = state.axes[entry.tensor][entry.axis]
            if own.size == spell.ids.size:
                n.tie(spell.ids, own)


def _fix_entry(state: Walk, entry: entries.Entry, why: str) -> None:
    for leaf in entries.leaves(entry):
        if isinstance(leaf, Dim) and leaf.tensor in state.axes:
            state.labels.fix(state.axes[leaf.tensor][leaf.axis], why)


def _fix_lengths(state: Walk, value: Value, why: str) -> None:
    for entry in value.ravel():
        _fix_entry(state, entry, why)


def _fold(model: _Model, state: Walk, node: NodeProto) -> bool:
    """Follow shape arithmetic; True where the node is nothing else."""
    if _domain(node) or not node.output or not node.output[0]:
        return False
    name = node.output[0]
    value = _shape_value(model, state, node) if node.op_type in {"Shape", "Size"} else None
    value = _computed_value(model, state, node) if value is None else value
    if value is None:
        return False
    state.values[name] = value
    state.axes[name] = tuple(np.zeros(size, np.int64) for size in value.shape)
    return True


def _computed_value(model: _Model, state: Walk, node: NodeProto) -> Value | None:
    """Compute on numbers that are known: whole ones, and floats that come from whole ones."""
    name, inputs = node.output[0], [i for i in node.input if i]
    if len(node.output) != 1:
        return None
    integer = model.shapes.dtype.get(name) in INTEGERS
    if node.op_type == "Constant":
        array = model.constants.value(name) if integer else None
        return entries.constant(name, array) if array is not None and array.size <= entries.LARGEST else None
    computed = [state.values[i] for i in inputs if i in state.values and i not in model.constants.stored]
    if not integer and not any(map(entries.is_real, computed)) and not (computed and node.op_type == "Cast"):
        return None
    values = [state.values.get(i) if i in state.values else _small_floats(model, state, i) for i in inputs]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if node.op_type == "Clip":
        bounds = [state.values[name] if name else None for name in (*node.input[1:], "", "")]
        return entries.clip(known[0], *bounds[:2])
    return entries.fold(node.op_type, known, Attributes(node))


def _small_floats(model: _Model, state: Walk, name: str) -> Value | None:
    """Entries of a constant with which shape arithmetic in floats computes."""
    tensor = model.constants.stored.get(name)
    if (
        tensor is None
        or math.prod(tensor.dims) > FEW
        or tensor.data_type not in {TensorProto.FLOAT, TensorProto.DOUBLE}
    ):
        return None
    return state.values.setdefault(name, entries.constant("", model.constants.value(name)))


def _shape_value(model: _Model, state: Walk, node: NodeProto) -> Value | None:
    axes = state.axes.get(node.input[0])
    if axes is None:
        return None
    constant = node.input[0] in model.constants.names or node.input[0] in state.values
    dims = [
        Const("", 0, labels.size) if constant and not labels.any() else Dim(node.input[0], axis, labels.size, constant)
        for axis, labels in enumerate(axes)
    ]
    out = np.empty(len(dims), object)
    out[:] = dims
    if node.op_type == "Size":
        return entries.product(out)
    given = Attributes(node)
    return out[given.integer("start", 0) : given.integer("end", len(dims))]
