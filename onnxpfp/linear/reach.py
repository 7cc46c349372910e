"""The reach of channels: how far their numbers can be from zero, by the weights alone or for inputs that are known.

Let R be the largest norm of what a Conv, Gemm or MatMul with stored weights reads for one output, with a 1 for the bias
appended (so R >= 1). Its output j is at most R ||[F_j; b_j]|| then (Cauchy-Schwarz; Mussay et al., ICLR 2020). This
goes through the graph in units of R, a number per channel and tensor:

    1. Linear ops: the norm of filter and bias, of the folded one behind BatchNormalization.
    2. Ops that add: the sum of their operands. So a stream counts everything that is added to it.
    3. Ops whose results are no further from zero than their input (`OpFacts.magnitude`), or than a function of how
       far that is (`OpFacts.largest`): that of the input, or what the function makes of it.
    4. Stored tensors (tables of embeddings, vectors that are added): their largest number.
    5. Results that lie within [-1, 1] (sigmoids, recurrences): 1.
    6. A product with what is known in plain numbers (stored, clipped, or within [-1, 1]): the product of both.

Everything else (inputs of the model, products of two activations, other normalizations, ops that nothing is known of)
is in doubt: it gets an estimate, so that it counts in the ranking, and no bound is claimed of what it flows into.

With `InputLimits` all of it is in plain numbers: R of each linear op is the largest that was measured, or it follows
from the reach of what it reads, R^2 = 1 + k sum_c reach_c^2 over k taps and the channels of a convolution group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, Floats, Ids
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.channels.types import Group
from onnxpfp.linear.producers import Producer, batch_norm_terms, producers_of
from onnxpfp.linear.tensor_reach import TensorReach, of_filters, of_stored, reach_product, scaled_reach, total_reach
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.random_ops import TRAINING_INPUT

__all__ = ["InputLimits", "Reaches", "reaches_of"]


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How large the inputs are that a reach holds for.

    Attributes:
        inputs: Largest magnitude of the numbers of inputs of the model, by name.
        patches: Largest norm (beta of Mussay et al.) of what linear ops read for one output, by the name of that.
    """

    inputs: Mapping[str, float]
    patches: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, eq=False)
class Reaches:
    """The reach of all channels.

    Attributes:
        values: Reach by channel id where its consumers read it, (count + 1,) float64; an estimate where nothing is
            known.
        doubts: Why the channels of each group may reach further, (groups,); empty where they cannot.
    """

    values: Floats
    doubts: tuple[str, ...]


def reaches_of(analysis: Analysis, limits: InputLimits | None = None) -> Reaches:
    """Find the reach of all channels of a model.

    Args:
        analysis: The model.
        limits: The inputs that it holds for, for a reach in plain numbers; None is for any, in units of R.
    """
    graph = analysis.graph
    tensors = _Tensors(analysis, limits)
    for node in analysis.model.graph.node:
        tensors.pass_node(node)
    values, doubts = np.zeros(graph.count + 1), [""] * len(graph.groups)
    for number, group in enumerate(graph.groups):
        reach, doubts[number] = _of_group(analysis, tensors, group)
        values[group.channels] = reach
    return Reaches(values, tuple(doubts))


def _of_group(analysis: Analysis, tensors: _Tensors, group: Group) -> tuple[Floats, str]:
    """Return the largest reach at the consumers of a group, and the first doubt about it."""
    reach, doubt = np.zeros(group.channels.size), ""
    for position in group.consumers:
        consumer = analysis.graph.consumers[position]
        known = tensors.reach(consumer.data, -1, consumer.data_input)
        values, doubted = known.at(group.channels)
        reach = np.maximum(reach, values)
        if not consumer.constant:
            doubt = doubt or f"{consumer.op} '{consumer.name}' multiplies two activations"
        if doubted.any():
            doubt = doubt or known.why
    return reach, doubt


@dataclass(slots=True, eq=False)
class _Tensors:
    """The reach of the tensors passed so far."""

    analysis: Analysis
    limits: InputLimits | None
    known: dict[str, TensorReach] = field(default_factory=dict[str, TensorReach])
    producers: dict[str, Producer] = field(default_factory=dict[str, Producer])

    def __post_init__(self) -> None:
        self.producers.update((producer.output, producer) for producer in producers_of(self.analysis))

    def ids(self, name: str) -> Ids:
        """Return the channels of a tensor, ascending."""
        axes = [axis for axis in self.analysis.graph.axes.get(name, ()) if axis.any()]
        ids = np.unique(np.concatenate(axes)) if axes else np.zeros(0, np.int64)
        return ids[ids != 0]

    def reach(self, name: str, node: int, position: int) -> TensorReach:
        """Return the reach of a tensor where a node reads it."""
        if name in self.known:
            return self.known[name]
        if name in self.analysis.constants.names:
            return of_stored(self.analysis.constants.value(name), self.axes_of(name, node, position))
        if self.limits is not None and name in self.limits.inputs:
            return TensorReach.within(self.ids(name), self.limits.inputs[name])
        whole = f"the body {self.analysis.source.place}" if self.analysis.source.place else "the model"
        return TensorReach.unknown(self.ids(name), f"'{name}' is an input of {whole}")

    def axes_of(self, name: str, node: int, position: int) -> tuple[Ids, ...]:
        """Return the channels of a stored tensor where a node reads it, axis by axis."""
        axes = self.analysis.graph.uses.get(name, {}).get((node, position))
        return self.analysis.graph.axes.get(name, ()) if axes is None else axes

    def pass_node(self, node: NodeProto) -> None:
        """Find the reach of a node's outputs."""
        if node.output[0] in self.producers:
            self._produce(node, self.producers[node.output[0]])
        outputs = [name for name in node.output if name and name not in self.known]
        outputs = [name for name in outputs if name not in self.analysis.constants.names]
        for name in outputs:
            self.known[name] = self._result(node, self.ids(name), list(node.output).index(name))

    def _produce(self, node: NodeProto, producer: Producer) -> None:
        """Give the outputs of a linear op the norms of its filters, times R where that is known.

        Where its channels are those that it reads (a depthwise convolution) and R is not known, what they were before
        counts, too: that makes the bound no less true, and the ranking better.
        """
        number = self.analysis.index.producers[producer.output]
        before = self.reach(node.input[0], number, 0)
        plain = of_filters(producer.ids, producer.plain_squares, producer.plain_bias)
        folded = of_filters(producer.ids, producer.squares, producer.bias)
        if self.limits is None:
            plain, folded = plain.plus(before), folded.plus(before)
        else:
            radius, why = self._radius(node, before, self.limits)
            plain, folded = plain.known(radius, why), folded.known(radius, why)
        self.known[producer.output] = plain
        if producer.folded:
            self.known[producer.folded] = folded

    def _radius(self, node: NodeProto, before: TensorReach, limits: InputLimits) -> tuple[float, str]:
        """Return R of a linear op, and the doubt about it where what it reads is in doubt."""
        measured = limits.patches.get(node.output[0])
        if measured is not None:
            return math.sqrt(1.0 + measured**2), ""
        axes, options = self.analysis.graph.axes[node.input[0]], Attributes(node)
        matrix = facts_of(node).layout == "matrix"
        axis = axes[(0 if options.integer("transA", 0) else -1) if matrix else 1]
        taps = 1 if matrix else math.prod(self.analysis.shapes.shape[node.input[1]][2:])
        squares = np.square(before.of_axis(axis)).reshape(options.integer("group", 1), -1)
        return math.sqrt(1.0 + taps * float(squares.sum(axis=1).max(initial=0.0))), before.why

    def _result(self, node: NodeProto, ids: Ids, output: int) -> TensorReach:
        facts, options = facts_of(node), Attributes(node)
        number = self.analysis.index.producers[next(name for name in node.output if name)]
        if facts.states_within_one and _starts_from_zero(node, options) and output < 2:
            return TensorReach.within(ids, 1.0)
        operands = [self.reach(name, number, i) for i, name in enumerate(node.input) if name]
        read = total_reach(ids, operands[:1])
        if facts.largest is not None and (read.fixed or not facts.within_one):
            result = read.through(facts.largest)
            return result.clipped(1.0) if facts.within_one else result
        if facts.within_one:
            return TensorReach.within(ids, 1.0)
        special = _SPECIAL.get(node.op_type)
        if special is not None and node.domain in {"", "ai.onnx"}:
            return special(self, node, ids, operands)
        # Other outputs are masks and places, but those of Split are all parts of what it reads.
        of_values = output == 0 or node.op_type == "Split"
        if facts.magnitude is None or not of_values or not self._keeps_magnitude(node, options):
            return _estimate(node, ids, operands)
        used = operands[:1] if facts.magnitude == "of the first input" else operands
        if node.op_type == "Where":
            used = operands[1:]
        return total_reach(ids, used, stretches=node.op_type != "Concat")

    def _keeps_magnitude(self, node: NodeProto, options: Attributes) -> bool:
        """Whether the options of a node leave what is declared of its op."""
        if node.op_type == "Dropout" and any(node.input[TRAINING_INPUT:]):
            return self.stored(node, TRAINING_INPUT) and not self.value(node, TRAINING_INPUT).any()
        if node.op_type == "Resize":
            return options.text("mode", "nearest") != "cubic" and "extrapolation_value" not in options
        if node.op_type == "Pad":
            value = self.value(node, 2) if self.stored(node, 2) else np.zeros(1)
            return len(node.input) < 3 or not node.input[2] or (self.stored(node, 2) and not value.any())
        return True

    def value(self, node: NodeProto, position: int) -> AnyArray:
        """Return the numbers of a stored input."""
        return self.analysis.constants.value(node.input[position])

    def stored(self, node: NodeProto, position: int) -> bool:
        """Whether an input is there, and stored."""
        return len(node.input) > position and node.input[position] in self.analysis.constants.names


def _normalized(tensors: _Tensors, node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    """Pass a BatchNormalization that is not folded: every channel has a factor and a shift."""
    constants = tensors.analysis.constants
    if not constants.names.issuperset(node.input[1:5]):
        return total_reach(ids, operands[:1], _unknown(node))
    scale, shift = batch_norm_terms(node, constants)
    axis = tensors.analysis.graph.axes[node.output[0]][1]
    factor, added = of_stored(scale, (axis,)), of_stored(shift, (axis,))
    return total_reach(ids, [scaled_reach(ids, operands[0], factor), added])


def _product(tensors: _Tensors, node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    return reach_product(node.name or node.output[0], ids, *operands)


def _quotient(tensors: _Tensors, node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    """Pass a division by stored floats that are not zero."""
    divisor = tensors.value(node, 1) if tensors.stored(node, 1) else None
    if divisor is None or divisor.dtype.kind != "f" or not divisor.all():
        return _estimate(node, ids, operands)
    axes = tensors.axes_of(node.input[1], tensors.analysis.index.producers[node.output[0]], 1)
    return scaled_reach(ids, operands[0], of_stored(1.0 / divisor.astype(np.float64), axes))


def _clipped(tensors: _Tensors, node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    """Pass a Clip whose limits are known and enclose zero."""
    options = Attributes(node)
    limits = [options.real("min", -np.inf), options.real("max", np.inf)]
    for position, name in enumerate(node.input[1:3]):
        if name and not tensors.stored(node, position + 1):
            return _estimate(node, ids, operands)
        if name:
            limits[position] = float(tensors.value(node, position + 1).ravel()[0])
    low, high = limits
    if not low <= 0.0 <= high:
        return _estimate(node, ids, operands)
    return total_reach(ids, operands[:1]).clipped(max(-low, high))


def _sloped(tensors: _Tensors, node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    """Pass an activation that is steeper than 1 on one side of zero, or not: |alpha (e^x - 1)| is at most |alpha x|."""
    options = Attributes(node)
    if node.op_type == "PRelu":
        doubt = "" if tensors.stored(node, 1) else _unknown(node)
        return total_reach(ids, [operands[0].times(max(1.0, operands[1].largest))], doubt)
    alpha = abs(options.real("alpha", _ALPHAS[node.op_type]))
    gamma = abs(options.real("gamma", _SELU_GAMMA)) if node.op_type == "Selu" else 1.0
    return total_reach(ids, [operands[0].times(gamma * max(1.0, alpha))])


_ALPHAS = {"Elu": 1.0, "LeakyRelu": 0.01, "Selu": 1.67326319217681884765625}
_SELU_GAMMA = 1.05070102214813232421875
"""Defaults of ONNX."""

_SPECIAL: Mapping[str, Callable[[_Tensors, NodeProto, Ids, Sequence[TensorReach]], TensorReach]] = {
    "BatchNormalization": _normalized,
    "Clip": _clipped,
    "Div": _quotient,
    "Mul": _product,
    **dict.fromkeys(("Elu", "LeakyRelu", "PRelu", "Selu"), _sloped),
}


def _estimate(node: NodeProto, ids: Ids, operands: Sequence[TensorReach]) -> TensorReach:
    """Let what is read stand for what comes of it, in doubt."""
    own = [one for one in operands if np.isin(ids, one.ids).any()]
    return total_reach(ids, own, _unknown(node)) if own else TensorReach.unknown(ids, _unknown(node))


def _starts_from_zero(node: NodeProto, options: Attributes) -> bool:
    """Whether a recurrence has its own activations, and no state from before."""
    return "activations" not in options and (len(node.input) < 6 or not node.input[5])


def _unknown(node: NodeProto) -> str:
    return f"how large {node.op_type} '{node.name or node.output[0]}' can get does not follow from weights"
