"""Branches: groups that may go with all of their channels, and what a network is without them.

Where a group goes entirely, every Conv, Gemm or MatMul that reads it gives its bias, whatever the input: a constant
with one number per output, that is (1, O, 1, 1) where the output is (N, O, H, W). A residual branch ends in such an op,
and an Add takes the constant in the place of the op's output, for the shortcut has the shape of both. So the op goes,
and all nodes that only serve it:

    replaced    A linear op of which all channels go; its bias stands in its place.
    folded      An op that acts on every number by itself (or moves them, such that the last axis stays the last), and
                reads nothing but constants now: what it makes of them is a constant in its turn.
    stop        An op that reads a constant beside an activation that has the shape of its result: it stays.
    gone        All of these but the stops, and the nodes that are left without a reader.

That is sound where no node that is left reads or makes an index of a channel that goes, and reads no constant but at a
stop. Where something else reads the constant, and needs its shape (an output of the network, Concat, MatMul, ...), the
group keeps a channel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import ModelProto, NodeProto

from onnxpfp.arrays import Ids, Keep
from onnxpfp.channels.graph import ChannelGraph
from onnxpfp.channels.ops import facts_of, op_name
from onnxpfp.channels.ops.elementwise import UNARY
from onnxpfp.channels.types import Consumer
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants, outer_names
from onnxpfp.model.opset import standard_opset

__all__ = ["BranchGraph", "BranchRemoval", "gone_groups", "one_of_each", "removal_of"]

Shape = tuple[int, ...]

PLAIN = frozenset({*UNARY, "CastLike", "Clip", "Dropout"})
"""Ops that act on every number of their first input by itself; what else they read are single numbers."""
STOPS = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum"})
"""Ops of several tensors that broadcast, whichever has the shape of the result."""
SHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
"""Ops that give numbers another shape and leave their order."""
TRAINING = 2
"""Input of Dropout that says whether it drops anything."""
BROADCASTS_SINCE = 8
"""First opset in which all of `STOPS` broadcast."""


def gone_groups(graph: ChannelGraph, keep: Keep) -> frozenset[int]:
    """Return the groups of which no channel stays, by position."""
    return frozenset(number for number, group in enumerate(graph.groups) if not keep[group.channels].any())


def one_of_each(graph: ChannelGraph, keep: Keep) -> Keep:
    """Return the choice that also keeps one channel of every group that goes entirely."""
    held = keep.copy()
    for number in gone_groups(graph, keep):
        held[graph.groups[number].channels[0]] = True
    return held


@dataclass(frozen=True, slots=True)
class BranchRemoval:
    """What becomes of a network where some groups go entirely.

    Attributes:
        replaced: Positions of the nodes whose bias stands in their place.
        folded: Those of nodes that read constants alone then, in their order.
        gone: Those of all nodes that go, these included, but for those that are left without a reader.
        made: All tensors that become constants.
        constants: Those of them that nodes read which stay.
        stops: Positions of these nodes.
        live: Positions of the nodes that the outputs are computed from then.
        alive: Groups of which these read or make channels.
        obstacle: Why the groups cannot go; empty where they can, as far as that does not hang on shapes.
    """

    replaced: frozenset[int]
    folded: tuple[int, ...]
    gone: frozenset[int]
    made: frozenset[str]
    constants: tuple[str, ...]
    stops: tuple[int, ...]
    live: frozenset[int]
    alive: frozenset[int]
    obstacle: str


def removal_of(model: ModelProto, graph: ChannelGraph, keep: Keep) -> BranchRemoval | None:
    """Find out what becomes of a model by a choice of channels; None where every group keeps some."""
    groups = gone_groups(graph, keep)
    return BranchGraph.of(model, graph).removal(groups) if groups else None


@dataclass(frozen=True, slots=True, eq=False)
class BranchGraph:
    """A model as far as groups that go entirely are concerned.

    Attributes:
        nodes: Its nodes.
        graph: Its channels.
        constants: Tensors that follow from constants alone.
        outputs: Its outputs.
        reads: What every node reads, captures by subgraphs included.
        touched: The groups of which every node reads or makes channels.
        read_groups: The groups that every consumer contracts; -1 among them for what stays.
        producers: Position of the node that makes each tensor.
        broadcasts: Whether all of `STOPS` broadcast.
    """

    nodes: Sequence[NodeProto]
    graph: ChannelGraph
    constants: frozenset[str]
    outputs: tuple[str, ...]
    reads: tuple[frozenset[str], ...]
    touched: tuple[frozenset[int], ...]
    read_groups: tuple[frozenset[int], ...]
    producers: Mapping[str, int]
    broadcasts: bool

    @classmethod
    def of(cls, model: ModelProto, graph: ChannelGraph) -> Self:
        """Look at a model."""
        owner = np.full(graph.count + 1, -1, np.int64)
        for number, group in enumerate(graph.groups):
            owner[group.channels] = number
        nodes = [*model.graph.node]
        reads = tuple(frozenset({*node.input, *outer_names(node)} - {""}) for node in nodes)
        consumers = (_owners(owner, (consumer.channels,)) for consumer in graph.consumers)
        return cls(
            nodes,
            graph,
            Constants.of(model).names,
            tuple(info.name for info in model.graph.output),
            reads,
            _touched(nodes, reads, graph, owner),
            tuple(consumers),
            {name: index for index, node in enumerate(nodes) for name in node.output if name},
            standard_opset(model) >= BROADCASTS_SINCE,
        )

    def removal(self, groups: Collection[int]) -> BranchRemoval:
        """Find out what becomes of the model without some groups."""
        made = self._replaced(groups)
        replaced = frozenset(self.producers[name] for name in made)
        folded: list[int] = []
        for index in range(min(replaced, default=len(self.nodes)), len(self.nodes)):
            if index in replaced or made.keys().isdisjoint(self.nodes[index].input):
                continue
            shape = self._folded(self.nodes[index], made)
            if shape is not None:
                made[self.nodes[index].output[0]] = shape
                folded.append(index)
        live = self._live({*replaced, *folded}, made)
        alive = frozenset[int]().union(*(self.touched[index] for index in live)) - {-1}
        stops = tuple(sorted(index for index in live if not made.keys().isdisjoint(self.reads[index])))
        constants = {name: None for index in stops for name in self.nodes[index].input if name in made}
        gone = self._gone({*replaced, *folded}, live, groups)
        obstacle = self._obstacle(groups, live, stops, made)
        return BranchRemoval(
            replaced, tuple(folded), gone, frozenset(made), tuple(constants), stops, live, alive, obstacle
        )

    def tensors(self, groups: Collection[int]) -> frozenset[str]:
        """Return the tensors that the outputs are computed from without some groups.

        Biases of which constants are made are among them, these constants are not: nothing computes them any more.
        """
        removal = self.removal(groups)
        biases = {name for index in removal.replaced for name in self.nodes[index].input[2:]}
        names = (frozenset({*self.reads[index], *self.nodes[index].output}) for index in removal.live)
        return frozenset(biases).union(*names) - removal.made

    def _replaced(self, groups: Collection[int]) -> dict[str, Shape]:
        """Return the outputs of the linear ops that only read such groups, with the shapes of the constants."""
        found: dict[str, Shape] = {}
        for consumer, read in zip(self.graph.consumers, self.read_groups, strict=True):
            if read.issubset(groups) and self._is_plain(consumer):
                axes = self.graph.axes[consumer.output]
                axis = len(axes) - 1 if facts_of(self.nodes[consumer.node]).layout == "matrix" else 1
                found[consumer.output] = tuple(ids.size if n == axis else 1 for n, ids in enumerate(axes))
        return found

    def _is_plain(self, consumer: Consumer) -> bool:
        """Tell whether an op gives its bias where it reads zeros, and that is a constant with one number per output."""
        node = self.nodes[consumer.node]
        facts, axes = facts_of(node), self.graph.axes.get(consumer.output, ())
        floats = facts.linear and facts.layout is not None and not any(consumer.zeros)
        if not (floats and consumer.constant and consumer.data_input == 0 and len(axes) > 1):
            return False
        # A vector has no outputs: the last axis is another one then.
        if len(self._shape(consumer.weight, (consumer.node, 1)) or ()) == 1:
            return False
        position = None if facts.bias is None else facts.bias.position
        if position is None or len(node.input) <= position or not node.input[position]:
            return True
        shape = self._shape(node.input[position], (consumer.node, position))
        return node.input[position] in self.constants and shape is not None and all(n == 1 for n in shape[:-1])

    def _shape(self, name: str, use: tuple[int, int]) -> Shape | None:
        """Return the shape of a tensor where a node reads it; None where it is no dense tensor."""
        axes = self.graph.uses.get(name, {}).get(use, self.graph.axes.get(name))
        return None if axes is None else tuple(ids.size for ids in axes)

    def _folded(self, node: NodeProto, made: Mapping[str, Shape]) -> Shape | None:
        """Return the shape of what a node makes of constants, where these may have shorter axes; None where not."""
        op, first = op_name(node.op_type, node.domain), made.get(node.input[0])
        out = self.graph.axes.get(node.output[0])
        if out is None or any(node.output[1:]):
            return None
        if op in STOPS or op == "PRelu":
            return self._broadcast(node, made)
        if first is None:
            return None
        if op in SHAPING:
            last = self.graph.axes[node.input[0]][-1:]
            same = len(out) > 0 and all(np.array_equal(ids, out[-1]) for ids in last)
            return (*(1 for _ in out[:-1]), first[-1]) if same and all(n == 1 for n in first[:-1]) else None
        if op == "Transpose":
            return tuple(first[n] for n in Attributes(node).integers("perm") or range(len(first))[::-1])
        if not self.constants.issuperset(name for name in node.input[1:] if name):
            return None
        if op == "Dropout" and any(node.input[TRAINING:]):
            return None
        if op == "BatchNormalization":
            return first if first[1] == out[1].size and not Attributes(node).integer("training_mode", 0) else None
        return first if op in PLAIN else None

    def _broadcast(self, node: NodeProto, made: Mapping[str, Shape]) -> Shape | None:
        """Return the shape of a result of several tensors; None where not all are constants."""
        shapes: list[Shape] = []
        for position, name in enumerate(node.input):
            known = name in self.constants
            shape = self._shape(name, (self.producers[node.output[0]], position)) if known else made.get(name)
            if shape is None or node.attribute:
                return None
            shapes.append(shape)
        return np.broadcast_shapes(*shapes) if self.broadcasts else None

    def _live(self, removed: Collection[int], made: Mapping[str, Shape]) -> frozenset[int]:
        """Return the nodes that the outputs are computed from."""
        live, waiting = set[int](), [name for name in self.outputs if name not in made]
        while waiting:
            index = self.producers.get(waiting.pop())
            if index is not None and index not in live and index not in removed:
                live.add(index)
                waiting += self.reads[index]
        return frozenset(live)

    def _gone(self, removed: Collection[int], live: Collection[int], groups: Collection[int]) -> frozenset[int]:
        """Return the nodes that go: also those that no output is computed from and that read what goes."""
        gone, names = set(removed), set[str]()
        for index, node in enumerate(self.nodes):
            touches = not self.touched[index].isdisjoint(groups) or not names.isdisjoint(self.reads[index])
            if index in gone or (touches and index not in live):
                gone.add(index)
                names.update(name for name in node.output if name)
        return frozenset(gone)

    def _obstacle(
        self, groups: Collection[int], live: Iterable[int], stops: Iterable[int], made: Mapping[str, Shape]
    ) -> str:
        """Say why groups cannot go; empty where nothing is in the way."""
        for index in sorted(live):
            if not self.touched[index].isdisjoint(groups):
                return f"{self._named(index)} needs some of it"
        for name in self.outputs:
            if name in made:
                return f"the output '{name}' would not hang on the input"
        for index in stops:
            node = self.nodes[index]
            activations = [name for name in node.input if name not in made and name not in self.constants]
            takes = self.broadcasts and op_name(node.op_type, node.domain) in STOPS and not node.attribute
            if not takes or not activations:
                return f"{self._named(index)} needs the shape of what it reads"
        return ""

    def _named(self, index: int) -> str:
        node = self.nodes[index]
        return f"{node.op_type} '{node.name or node.output[0]}'"


def _owners(owner: Ids, axes: Iterable[Ids]) -> frozenset[int]:
    """Return the groups that lie on some axes; -1 for what stays."""
    return frozenset[int]().union(*(np.unique(owner[ids]).tolist() for ids in axes))


def _touched(
    nodes: Sequence[NodeProto], reads: Sequence[frozenset[str]], graph: ChannelGraph, owner: Ids
) -> tuple[frozenset[int], ...]:
    """Return the groups that lie on what every node reads or makes; -1 for what stays."""
    groups = {name: _owners(owner, axes) for name, axes in graph.axes.items() if name not in graph.uses}
    none = frozenset[int]()
    touched: list[frozenset[int]] = []
    for index, node in enumerate(nodes):
        shared = ((name, (index, position)) for position, name in enumerate(node.input) if name in graph.uses)
        own = (_owners(owner, graph.uses[name].get(use, ())) for name, use in shared)
        touched.append(none.union(*(groups.get(name, none) for name in (*reads[index], *node.output)), *own))
    return tuple(touched)
