"""The LSTM, GRU and RNN nodes whose weights can be refitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, AnyFloats, Floats, Ids, Keep
from onnxpfp.channels import Analysis
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import FLOAT_TYPES
from onnxpfp.model.subnormal import without_new_subnormal
from onnxpfp.rewrite.edits import NewInput
from onnxpfp.rewrite.slices import sliced

__all__ = ["GATES", "RecurrentLayer", "RecurrentWeights", "is_recurrence", "recurrent_layers"]

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates by op, in the order of their rows: i o f c, z r h, i."""
DIRECTIONS: Mapping[str, tuple[bool, ...]] = {
    "forward": (False,),
    "reverse": (True,),
    "bidirectional": (False, True),
}
X, W, R, BIAS, LENGTHS, HIDDEN, CELL, PEEPHOLES = range(8)
"""Positions of the inputs."""
RESETS = frozenset({"Sigmoid", "Tanh", "Relu"})
"""Activations of a reset gate that `recurrent_rows.py` computes."""


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentWeights:
    """The weights of a recurrence, at full size or of what stays.

    Attributes:
        w: Of what it reads, (directions, gates H, I).
        r: Of its own states, (directions, gates H, H).
        b: Biases of both, one after the other, (directions, 2 gates H).
    """

    w: Floats
    r: Floats
    b: Floats


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentLayer:
    """One recurrence with constant weights.

    Attributes:
        index: Position of its node.
        node: The node.
        name: Its name.
        inputs: Its eight inputs; empty where there is none.
        reverse: Whether each direction runs from the last step to the first.
        units: Channel ids of its hidden units, (H,).
        channels: Channel ids of what it reads, (I,).
        axes: Channel ids of the axes of W, R and B, by position.
        arrays: W, R and B as they are stored, by position; of B zeros where there is none.
        tensors: The stored tensors that nothing else reads, by position; the others of the three are replaced.
    """

    index: int
    node: NodeProto
    name: str
    inputs: tuple[str, ...]
    reverse: tuple[bool, ...]
    units: Ids
    channels: Ids
    axes: Mapping[int, tuple[Ids, ...]]
    arrays: Mapping[int, AnyFloats]
    tensors: Mapping[int, str] = field(default_factory=dict[int, str])

    @property
    def output(self) -> str:
        """Name of its first output that is shown."""
        return next(name for name in self.node.output if name)

    @property
    def gates(self) -> int:
        """Number of gates."""
        return GATES[self.node.op_type]

    @property
    def columns(self) -> int:
        """Numbers that a gate is made of."""
        return self.units.size + self.channels.size

    @property
    def resets_after(self) -> bool:
        """Whether a GRU multiplies by the reset gate behind R and its bias, not before."""
        return bool(Attributes(self.node).integer("linear_before_reset", 0))

    @property
    def gate_activations(self) -> list[str]:
        """The activation of a GRU's gates that are no candidates, of each direction."""
        named = _gate_activations(self.node) if self.node.op_type == "GRU" else []
        return named or ["Sigmoid"] * len(self.reverse)

    def weights(self) -> RecurrentWeights:
        """Return the weights as they are, in float64."""
        return RecurrentWeights(*(self.arrays[position].astype(np.float64) for position in (W, R, BIAS)))

    def kept(self, weights: RecurrentWeights, keep: Keep) -> RecurrentWeights:
        """Cut weights of full size down to what stays."""
        w, r, b = (
            sliced(array, self.axes[position], keep).astype(np.float64)
            for position, array in ((W, weights.w), (R, weights.r), (BIAS, weights.b))
        )
        return RecurrentWeights(w, r, b)

    def widened(self, weights: RecurrentWeights, keep: Keep) -> RecurrentWeights:
        """Put weights of what stays into those of full size."""
        full = self.weights()
        for position, array, part in (
            (W, full.w, weights.w),
            (R, full.r, weights.r),
            (BIAS, full.b, weights.b),
        ):
            array[np.ix_(*(np.flatnonzero(keep[ids]) for ids in self.axes[position]))] = part
        return full

    def stored(self, weights: RecurrentWeights) -> dict[int, AnyArray]:
        """Return weights of full size as they are stored, by position: rounded, none subnormal that is new."""
        new = zip((W, R, BIAS), (weights.w, weights.r, weights.b), strict=True)
        return {position: without_new_subnormal(array, self.arrays[position]) for position, array in new}

    def edit(self, weights: Mapping[int, AnyArray]) -> tuple[dict[str, AnyArray], dict[tuple[int, int], NewInput]]:
        """Return new weights as edits: of stored tensors by name, and of inputs."""
        tensors = {name: weights[position] for position, name in self.tensors.items() if position in weights}
        inputs: dict[tuple[int, int], NewInput] = {}
        for position in weights.keys() - self.tensors.keys():
            name = self.inputs[position] or f"{self.inputs[W]}_bias"
            inputs[self.index, position] = NewInput(weights[position], self.axes[position], name)
        return tensors, inputs

    def new_bias(self) -> dict[tuple[int, int], NewInput]:
        """Return the bias that a refit adds to the file, as it is without one; none where there is one."""
        if self.inputs[BIAS]:
            return {}
        return self.edit({BIAS: self.arrays[BIAS]})[1]


def is_recurrence(node: NodeProto) -> bool:
    """Tell whether a node is an LSTM, a GRU or an RNN of the standard."""
    return node.op_type in GATES and node.domain in {"", "ai.onnx"}


def recurrent_layers(analysis: Analysis) -> tuple[tuple[RecurrentLayer, ...], tuple[tuple[str, str], ...]]:
    """List all recurrences that can be refitted, in the order of the nodes.

    Returns:
        The recurrences, and those that cannot be refitted, with the reason.
    """
    layers: list[RecurrentLayer] = []
    left: list[tuple[str, str]] = []
    for index, node in enumerate(analysis.model.graph.node):
        if not is_recurrence(node) or node.input[X] in analysis.constants.names:
            continue
        name = node.name or next(name for name in node.output if name)
        reason = _obstacle(analysis, index, node)
        if reason:
            left.append((name, reason))
        else:
            layers.append(_layer(analysis, index, node, name))
    return tuple(layers), tuple(left)


def _obstacle(analysis: Analysis, index: int, node: NodeProto) -> str:
    """Say why a recurrence cannot be refitted; empty where it can."""
    constants, options = analysis.constants, Attributes(node)
    weights = [node.input[position] for position in (W, R, BIAS) if len(node.input) > position and node.input[position]]
    if not constants.names.issuperset(weights):
        return "its weights are computed at run time"
    if not constants.apart.isdisjoint(weights):
        return "its weights lie in a file"
    if any(constants.value(name).dtype.kind != "f" for name in weights):
        return "its weights are no plain floating-point constants"
    if _own_bytes(analysis, index) < sum(constants.value(name).nbytes for name in weights[:2]):
        return "its weights are shared, or computed from fewer numbers than they are, and a refit would store them"
    if options.integer("layout", 0):
        return "its batch comes before its steps, which onnxruntime does not run"
    if node.op_type == "GRU" and not RESETS.issuperset(_gate_activations(node)):
        return f"of the activations of a reset gate only {', '.join(sorted(RESETS))} are known"
    return ""


def _gate_activations(node: NodeProto) -> list[str]:
    """Return the activation of a GRU's gates in each direction, the first of two; empty where none are named."""
    named = next((attribute.strings for attribute in node.attribute if attribute.name == "activations"), ())
    return [text.decode() for text in named[::2]]


def _own_bytes(analysis: Analysis, index: int) -> int:
    """Count the bytes of the stored floating-point numbers that only one node's weights are made of."""
    constants, graph = analysis.constants, analysis.model.graph
    node = graph.node[index]
    names = [node.input[position] for position in (W, R, BIAS) if len(node.input) > position and node.input[position]]
    leaves = {name for name in names if name in constants.stored}
    leaves |= {
        read
        for name in names
        for each in constants.nodes_behind(name)
        for read in each.input
        if read in constants.stored
    }
    plain = (constants.stored[name] for name in leaves)
    kinds = [tensor for tensor in plain if tensor.data_type in FLOAT_TYPES]
    return sum(constants.value(tensor.name).nbytes for tensor in kinds if _readers(analysis, tensor.name) == {index})


def _readers(analysis: Analysis, name: str) -> set[int]:
    """Return the nodes that read a constant, behind those that only compute others from it; -1 is a graph's output."""
    found, waiting, seen = set[int](), [name], set[str]()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in analysis.index.read_elsewhere:
            found.add(-1)
        for reader, _ in analysis.index.uses.get(tensor, ()):
            outputs = [output for output in analysis.model.graph.node[reader].output if output]
            if analysis.constants.names.issuperset(outputs):
                waiting.extend(outputs)
            else:
                found.add(reader)
    return found


def _layer(analysis: Analysis, index: int, node: NodeProto, name: str) -> RecurrentLayer:
    graph, constants = analysis.graph, analysis.constants
    inputs = (*node.input, *[""] * (PEEPHOLES + 1 - len(node.input)))
    axes, tensors = dict[int, tuple[Ids, ...]](), dict[int, str]()
    arrays: dict[int, AnyFloats] = {}
    for position in (W, R, BIAS):
        tensor = inputs[position]
        if not tensor:
            directions, rows = axes[W][:2]
            axes[position] = directions, np.concatenate([rows, rows])
            arrays[position] = np.zeros((directions.size, 2 * rows.size), arrays[W].dtype)
            continue
        axes[position] = graph.uses.get(tensor, {}).get((index, position), graph.axes[tensor])
        arrays[position] = constants.value(tensor)
        if tensor in constants.stored and analysis.index.only_use(tensor) == (index, position):
            tensors[position] = tensor
    reverse = DIRECTIONS[Attributes(node).text("direction", "forward")]
    units, channels = axes[R][2], axes[W][2]
    assert math.prod(arrays[R].shape) == len(reverse) * GATES[node.op_type] * units.size**2, name
    return RecurrentLayer(index, node, name, inputs, reverse, units, channels, axes, arrays, tensors)
