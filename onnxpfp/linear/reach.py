"""The reach of channels: how far their numbers can be from zero, by the weights alone.

Let R be the largest norm of what a Conv, Gemm or MatMul with stored weights reads for one output, with a 1 for the bias
appended (so R >= 1). Its output j is at most R ||[F_j; b_j]|| then (Cauchy-Schwarz; Mussay et al., ICLR 2020). This
goes through the graph in units of R, a number per channel and tensor:

    1. Linear ops: the norm of filter and bias, of the folded one behind BatchNormalization.
    2. Ops that add: the sum of their operands. So a stream counts everything that is added to it.
    3. Ops whose results are no further from zero than their input (`OpFacts.magnitude`): that of the input.
    4. Stored tensors (tables of embeddings, vectors that are added): their largest number.
    5. Results that lie within [-1, 1] (sigmoids, recurrences): 1.
    6. A product with a stored tensor, or with what lies within [-1, 1]: the product of both.

Everything else (inputs of the model, products of two activations, other normalizations, ops that nothing is known of)
is in doubt: it gets an estimate, so that it counts in the ranking, and no bound is claimed of what it flows into.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, Bools, Floats, Ids
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.channels.types import Group
from onnxpfp.linear.producers import Producer, batch_norm_terms, producers_of
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.random_ops import TRAINING_INPUT

__all__ = ["Reaches", "reaches_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Reaches:
    """The reach of all channels.

    Attributes:
        values: Reach by channel id where its consumers read it, (count + 1,) float64; 1 where nothing is known.
        doubts: Why the channels of each group may reach further, (groups,); empty where they cannot.
    """

    values: Floats
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Reach:
    """The reach of one tensor.

    Attributes:
        ids: Its channels, ascending, (n,).
        values: Their reach, (n,).
        rest: Reach of the indices that are no channels.
        doubted: Whether more is possible, (n,).
        rest_doubted: The same of the rest.
        why: Where the doubt comes from.
    """

    ids: Ids
    values: Floats
    rest: float
    doubted: Bools
    rest_doubted: bool
    why: str = ""

    @classmethod
    def same(cls, ids: Ids, value: float, why: str = "") -> _Reach:
        """Give all indices one reach; in doubt where it is said why."""
        return cls(ids, np.full(ids.size, value), value, np.full(ids.size, bool(why)), bool(why), why)

    def at(self, ids: Ids) -> tuple[Floats, Bools]:
        """Return reach and doubt of channels; of those that it lacks, for it is stretched over them, the largest."""
        largest = max(self.rest, float(self.values.max(initial=0.0)))
        values = np.full(ids.size, largest)
        doubted = np.full(ids.size, self.rest_doubted or bool(self.doubted.any()))
        if self.ids.size:
            place = np.minimum(np.searchsorted(self.ids, ids), self.ids.size - 1)
            here = self.ids[place] == ids
            values[here], doubted[here] = self.values[place[here]], self.doubted[place[here]]
        return values, doubted

    def plus(self, other: _Reach) -> _Reach:
        """Return it with the reach of another tensor added where both have a channel, and none of its doubts."""
        mine = np.isin(self.ids, other.ids)
        added = np.where(mine, other.at(self.ids)[0], 0.0)
        return _Reach(self.ids, self.values + added, self.rest, self.doubted, self.rest_doubted, self.why)

    def times(self, factor: float) -> _Reach:
        """Return it with everything multiplied."""
        return _Reach(self.ids, self.values * factor, self.rest * factor, self.doubted, self.rest_doubted, self.why)


def reaches_of(analysis: Analysis) -> Reaches:
    """Find the reach of all channels of a model."""
    graph = analysis.graph
    tensors = _Tensors(analysis)
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
    known: dict[str, _Reach] = field(default_factory=dict[str, _Reach])
    producers: dict[str, Producer] = field(default_factory=dict[str, Producer])

    def __post_init__(self) -> None:
        self.producers.update((producer.output, producer) for producer in producers_of(self.analysis))

    def ids(self, name: str) -> Ids:
        """Return the channels of a tensor, ascending."""
        axes = [axis for axis in self.analysis.graph.axes.get(name, ()) if axis.any()]
        ids = np.unique(np.concatenate(axes)) if axes else np.zeros(0, np.int64)
        return ids[ids != 0]

    def reach(self, name: str, node: int, position: int) -> _Reach:
        """Return the reach of a tensor where a node reads it."""
        if name in self.known:
            return self.known[name]
        if name in self.analysis.constants.names:
            axes = self.analysis.graph.uses.get(name, {}).get((node, position))
            axes = self.analysis.graph.axes.get(name, ()) if axes is None else axes
            return _of_stored(self.analysis.constants.value(name), axes)
        whole = f"the body {self.analysis.source.place}" if self.analysis.source.place else "the model"
        return _Reach.same(self.ids(name), 1.0, f"'{name}' is an input of {whole}")

    def pass_node(self, node: NodeProto) -> None:
        """Find the reach of a node's outputs."""
        if node.output[0] in self.producers:
            self._produce(node, self.producers[node.output[0]])
        outputs = [name for name in node.output if name and name not in self.known]
        outputs = [name for name in outputs if name not in self.analysis.constants.names]
        for name in outputs:
            self.known[name] = self._result(node, self.ids(name), list(node.output).index(name))

    def _produce(self, node: NodeProto, producer: Producer) -> None:
        """Give the outputs of a linear op the norms of its filters.

        Where its channels are those that it reads (a depthwise convolution), what they were before counts, too: that
        makes the bound no less true, and the ranking better.
        """
        number = self.analysis.index.producers[producer.output]
        before = self.reach(node.input[0], number, 0)
        plain = _of_filters(producer.ids, producer.plain_squares, producer.plain_bias)
        self.known[producer.output] = plain.plus(before)
        if producer.folded:
            self.known[producer.folded] = _of_filters(producer.ids, producer.squares, producer.bias).plus(before)

    def _result(self, node: NodeProto, ids: Ids, output: int) -> _Reach:
        facts, options = facts_of(node), Attributes(node)
        number = self.analysis.index.producers[next(name for name in node.output if name)]
        if facts.within_one or (facts.states_within_one and _starts_from_zero(node, options) and output < 2):
            return _Reach.same(ids, 1.0)
        operands = [self.reach(name, number, i) for i, name in enumerate(node.input) if name]
        if node.op_type == "BatchNormalization":
            return self._normalized(node, ids, operands[0])
        if node.op_type == "Mul":
            return _product(node, ids, operands, [self._bounded(name) for name in node.input])
        if node.op_type == "PRelu":
            slope = self.analysis.constants.names.issuperset(node.input[1:2])
            steepest = max(operands[1].rest, float(operands[1].values.max(initial=0.0)))
            return _sum(ids, [operands[0].times(max(1.0, steepest))], "" if slope else _unknown(node))
        # Other outputs are masks and places, but those of Split are all parts of what it reads.
        of_values = output == 0 or node.op_type == "Split"
        if facts.magnitude is not None and of_values and self._keeps_magnitude(node, options):
            used = operands[:1] if facts.magnitude == "of the first input" else operands
            if node.op_type == "Where":
                used = operands[1:]
            return _sum(ids, used, stretches=node.op_type != "Concat")
        own = [one for one in operands if np.isin(ids, one.ids).any()]
        return _sum(ids, own, _unknown(node)) if own else _Reach.same(ids, 1.0, _unknown(node))

    def _bounded(self, name: str) -> bool:
        """Whether a factor is known: stored, or within [-1, 1]."""
        maker = self.analysis.index.producer(name)
        return name in self.analysis.constants.names or (maker is not None and facts_of(maker).within_one)

    def _keeps_magnitude(self, node: NodeProto, options: Attributes) -> bool:
        """Whether the options of a node leave what is declared of its op."""
        if node.op_type == "Dropout" and any(node.input[TRAINING_INPUT:]):
            return self._stored(node, TRAINING_INPUT) and not self._value(node, TRAINING_INPUT).any()
        if node.op_type == "Clip":
            return self._clips_around_zero(node, options)
        if node.op_type == "Resize":
            return options.text("mode", "nearest") != "cubic" and "extrapolation_value" not in options
        if node.op_type == "Pad":
            value = self._value(node, 2) if self._stored(node, 2) else np.zeros(1)
            return len(node.input) < 3 or not node.input[2] or (self._stored(node, 2) and not value.any())
        return abs(options.real("alpha", 1.0)) <= 1.0 if node.op_type in {"Elu", "LeakyRelu"} else True

    def _clips_around_zero(self, node: NodeProto, options: Attributes) -> bool:
        low, high = options.real("min", -np.inf), options.real("max", np.inf)
        for position, name in enumerate(node.input[1:3], 1):
            if not name:
                continue
            if not self._stored(node, position):
                return False
            value = float(self._value(node, position).ravel()[0])
            low, high = (value, high) if position == 1 else (low, value)
        return low <= 0.0 <= high

    def _value(self, node: NodeProto, position: int) -> AnyArray:
        return self.analysis.constants.value(node.input[position])

    def _stored(self, node: NodeProto, position: int) -> bool:
        return len(node.input) > position and node.input[position] in self.analysis.constants.names

    def _normalized(self, node: NodeProto, ids: Ids, operand: _Reach) -> _Reach:
        """Pass a BatchNormalization that is not folded: every channel has a factor and a shift."""
        if not self.analysis.constants.names.issuperset(node.input[1:5]):
            return _sum(ids, [operand], _unknown(node))
        scale, shift = batch_norm_terms(node, self.analysis.constants)
        axis = self.analysis.graph.axes[node.output[0]][1]
        factor, added = _of_stored(scale, (axis,)), _of_stored(shift, (axis,))
        return _sum(ids, [_scaled(ids, operand, factor), added])


def _of_filters(axis: Ids, squares: Floats, bias: Floats) -> _Reach:
    """Return the norm of filter and bias of every channel; several filters of a channel are one row."""
    ids = np.unique(axis[axis != 0])
    norms, there = np.zeros(ids.size), axis != 0
    np.add.at(norms, np.searchsorted(ids, axis[there]), squares[there] + np.square(bias[there]))
    rest = np.sqrt(np.max(squares[~there] + np.square(bias[~there]), initial=0.0))
    return _Reach(ids, np.sqrt(norms), float(rest), np.zeros(ids.size, np.bool_), rest_doubted=False)


def _of_stored(value: AnyArray, axes: Sequence[Ids]) -> _Reach:
    """Return the largest stored number of every channel."""
    if value.dtype.kind not in "fiu" or not value.size:
        return _Reach.same(np.zeros(0, np.int64), 0.0)
    present = [axis for axis in axes if axis.any()]
    ids = np.unique(np.concatenate(present)) if present else np.zeros(0, np.int64)
    ids = ids[ids != 0]
    values, rest = np.zeros(ids.size), 0.0 if present else _largest(value)
    for number, axis in enumerate(axes):
        if not axis.any():
            continue
        others = tuple(i for i in range(value.ndim) if i != number)
        peak = np.maximum(np.abs(value.max(others).astype(np.float64)), np.abs(value.min(others).astype(np.float64)))
        np.maximum.at(values, np.searchsorted(ids, axis[axis != 0]), peak[axis != 0])
        rest = max(rest, float(peak[axis == 0].max(initial=0.0)))
    return _Reach(ids, values, rest, np.zeros(ids.size, np.bool_), rest_doubted=False)


def _largest(value: AnyArray) -> float:
    return max(abs(float(value.max())), abs(float(value.min())))


def _sum(ids: Ids, operands: Iterable[_Reach], why: str = "", *, stretches: bool = True) -> _Reach:
    """Add up the operands; where nothing stretches them, a channel that one of them lacks gets nothing from it."""
    values, doubted = np.zeros(ids.size), np.full(ids.size, bool(why))
    rest, rest_doubted = 0.0, bool(why)
    for operand in operands:
        mine, doubts = operand.at(ids)
        if not stretches:
            lacks = ~np.isin(ids, operand.ids)
            mine[lacks], doubts[lacks] = 0.0, False
        values, doubted = values + mine, doubted | doubts
        rest, rest_doubted = rest + operand.rest, rest_doubted or operand.rest_doubted
        why = why or operand.why
    return _Reach(ids, values, rest, doubted, rest_doubted, why)


def _scaled(ids: Ids, operand: _Reach, factor: _Reach) -> _Reach:
    """Multiply channel by channel."""
    (values, doubted), (factors, also) = operand.at(ids), factor.at(ids)
    rest_doubted = operand.rest_doubted or factor.rest_doubted
    rest = operand.rest * factor.rest
    return _Reach(ids, values * factors, rest, doubted | also, rest_doubted, operand.why or factor.why)


def _product(node: NodeProto, ids: Ids, operands: Sequence[_Reach], bounded: Sequence[bool]) -> _Reach:
    """Multiply two operands; only one of them may be an activation that is not within [-1, 1]."""
    result = _scaled(ids, *operands)
    if any(bounded):
        return result
    return _sum(ids, [result], f"Mul '{node.name or node.output[0]}' multiplies two activations")


def _starts_from_zero(node: NodeProto, options: Attributes) -> bool:
    """Whether a recurrence has its own activations, and no state from before."""
    return "activations" not in options and (len(node.input) < 6 or not node.input[5])


def _unknown(node: NodeProto) -> str:
    return f"how large {node.op_type} '{node.name or node.output[0]}' can get does not follow from weights"
