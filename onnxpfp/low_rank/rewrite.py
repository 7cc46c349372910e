"""Two nodes in the place of one, in a copy of the file; and one in the place of two, with the product of the factors.

    Conv      name/low_rank_first     r filters; strides, pads and dilations of the axes that its kernel has, no bias
              name/low_rank_second    those of the other axes, the groups and the bias
    MatMul    two MatMuls
    Gemm      the first is a MatMul, or a Gemm where the data are transposed; alpha, beta and C are the second one's

An op with auto_pad gives it to both, for an axis with one tap and stride 1 gets no pads from it. Ops that shared their
weights share the factors. What the nodes read and write beside that has the names that it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import AnyArray, Floats
from onnxpfp.low_rank.factor import Factors
from onnxpfp.low_rank.layers import LowRankLayer, LowRankUse
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import all_names, graphs_in, stored_tensors
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE, add_constants, drop_unread, replace_nodes
from onnxpfp.model.names import free_name, node_name
from onnxpfp.model.recorded import inferred_types
from onnxpfp.model.subnormal import without_new_subnormal
from onnxpfp.runtime.external_data import numbers

__all__ = ["FactoredLayer", "with_factors", "with_products"]


@dataclass(frozen=True, slots=True, eq=False)
class FactoredLayer:
    """A layer as it will be written.

    Attributes:
        layer: The layer.
        cut: How many of the kernel's axes the first op has.
        factors: What is written, in float64 and by convolution group.
        first: Weights of the first op, as it reads them.
        second: Those of the second one.
        bias: The new bias, (O,); None where it stays.
    """

    layer: LowRankLayer
    cut: int
    factors: Factors
    first: AnyArray
    second: AnyArray
    bias: AnyArray | None

    @classmethod
    def of(
        cls, layer: LowRankLayer, cut: int, factors: Factors, dtype: np.dtype[np.generic], bias: Floats | None
    ) -> FactoredLayer:
        """Bring factors to the type and form in which ops read weights."""
        first, second = (_rounded(each, dtype) for each in (factors.first, factors.second))
        written = Factors(first.astype(np.float64), second.astype(np.float64))
        rounded = None if bias is None else _rounded(bias, dtype)
        return cls(layer, cut, written, _stored(first, layer), _stored(second, layer), rounded)


def with_factors(model: ModelProto, layers: Iterable[FactoredLayer]) -> ModelProto:
    """Put two nodes in the place of every op of the layers.

    Args:
        model: The model; it is not changed.
        layers: The layers; outputs of their ops are found by name.
    """
    return _Rewriting.of(model).run(layers)


def with_products(factored: ModelProto, original: ModelProto, layers: Iterable[FactoredLayer]) -> ModelProto:
    """Put one node in the place of two again, with the product of their weights as numpy computes it: the oracle.

    Args:
        factored: A model with factors, whatever their numbers are by now; it is not changed.
        original: The model that they were put into, whose nodes say how the layers slide.
        layers: The layers.
    """
    copy = ModelProto()
    copy.CopyFrom(factored)
    graph, stored = copy.graph, stored_tensors(copy.graph)
    before = {node.output[0]: node for node in original.graph.node if node.output}
    nodes = {node.output[0]: node for node in graph.node if node.output}
    names = set[str]().union(*map(all_names, graphs_in(graph)))
    products: dict[str, NodeProto | None] = {}
    added: list[TensorProto] = []
    unread: list[str] = []
    for each in layers:
        for use in each.layer.uses:
            second = nodes[use.output]
            first = nodes[second.input[0]]
            weights = [numbers(stored[node.input[1]]) for node in (first, second)]
            name = free_name(f"{each.layer.weight}/product", names)
            added.append(numpy_helper.from_array(np.ascontiguousarray(_product(weights, each)), name))
            node = _copied(before[use.output])
            node.input[:] = [first.input[0], name, *second.input[2:]]
            products |= {use.output: node, first.output[0]: None}
            unread += [first.input[1], second.input[1]]
    changed = ((node, products.get(node.output[0], node)) for node in graph.node)
    replace_nodes(graph, [new for _, new in changed if new is not None])
    drop_unread(graph, unread)
    add_constants(copy, added)
    return copy


def _product(weights: Sequence[AnyArray], each: FactoredLayer) -> AnyArray:
    """Return the product of two weights as they are stored, as the layer's ops read their weights."""
    layer, shapes = each.layer, (each.factors.first.shape, each.factors.second.shape)
    matrix = layer.uses[0].op.kind == "matmul"
    first, second = (
        np.asarray(weight.T if matrix else weight, np.float64).reshape(shape)
        for weight, shape in zip(weights, shapes, strict=True)
    )
    return layer.as_read(_rounded(Factors(first, second).product(), weights[0].dtype))


@dataclass(frozen=True, slots=True, eq=False)
class _Rewriting:
    """A copy of a model that is changed.

    Attributes:
        model: The copy.
        names: Names of tensors that are taken.
        node_names: Names of nodes that are.
        added: New constants.
        unread: Tensors that lose a reader.
    """

    model: ModelProto
    names: set[str]
    node_names: set[str]
    added: list[TensorProto]
    unread: list[str]

    @classmethod
    def of(cls, model: ModelProto) -> _Rewriting:
        copy = ModelProto()
        copy.CopyFrom(model)
        names = set[str]().union(*map(all_names, graphs_in(copy.graph)))
        return cls(copy, names, {node.name for node in copy.graph.node}, [], [])

    def run(self, layers: Iterable[FactoredLayer]) -> ModelProto:
        """Rewrite all layers."""
        graph = self.model.graph
        new: dict[str, list[NodeProto]] = {}
        made: list[str] = []
        nodes = {name: node for node in graph.node for name in node.output}
        for each in layers:
            arrays = {"first": each.first, "second": each.second}
            weights = [self._constant(array, f"{each.layer.weight}/low_rank_{name}") for name, array in arrays.items()]
            for use in each.layer.uses:
                node = nodes[use.output]
                self.unread.append(node.input[1])
                second = self._second(node, weights[1], each)
                first = self._first(node, second, weights[0], use, each)
                made.append(first.output[0])
                new[use.output] = [first, second]
                if each.bias is not None:
                    node, position = use.added_at
                    self._add(new.setdefault(node, [_copied(nodes[node])])[-1], position, each)
        replace_nodes(graph, (one for node in graph.node for one in new.get(node.output[0], [node])))
        self._drop()
        add_constants(self.model, self.added)
        self._record(made)
        return self.model

    def _constant(self, array: AnyArray, stem: str) -> str:
        name = free_name(stem, self.names)
        self.added.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _second(self, node: NodeProto, weight: str, each: FactoredLayer) -> NodeProto:
        """Copy a node with the second weights."""
        copy = _copied(node)
        copy.input[1] = weight
        _set(copy, {"transB": None} if each.layer.transposed else {})
        return copy

    def _add(self, node: NodeProto, position: int, each: FactoredLayer) -> None:
        """Let a node add the new bias."""
        assert each.bias is not None
        node.input.extend([""] * (position + 1 - len(node.input)))
        self.unread.append(node.input[position])
        node.input[position] = self._constant(each.bias, f"{each.layer.weight}/low_rank_bias")

    def _first(
        self, node: NodeProto, second: NodeProto, weight: str, use: LowRankUse, each: FactoredLayer
    ) -> NodeProto:
        """Make the first node, and let the second one read it."""
        stem = node_name(node)
        between = free_name(f"{use.output}/low_rank", self.names)
        first = NodeProto(name=free_name(f"{stem}/low_rank_first", self.node_names), op_type=node.op_type)
        first.domain = node.domain
        first.input.extend([node.input[0], weight])
        first.output.append(between)
        second.name = free_name(f"{stem}/low_rank_second", self.node_names)
        second.input[0] = between
        if node.op_type == "Conv":
            _divide(node, first, second, use, each)
        elif node.op_type == "Gemm":
            transposed = [attribute for attribute in node.attribute if attribute.name == "transA" and attribute.i]
            first.attribute.extend(transposed)
            first.op_type = "Gemm" if transposed else "MatMul"
            _set(second, {"transA": None})
        return first

    def _drop(self) -> None:
        """Drop weights that nothing reads any more; where they had to be inputs (IR 3), also as such."""
        graph = self.model.graph
        if self.model.ir_version < INITIALIZERS_ARE_FREE:
            read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
            stored = {tensor.name for tensor in graph.initializer}
            gone = [info for info in graph.input if info.name in {*self.unread} & stored - read]
            for info in gone:
                graph.input.remove(info)
        drop_unread(graph, self.unread)

    def _record(self, made: Sequence[str]) -> None:
        """Record the shapes of what is between two nodes, where they follow from the inputs."""
        types = inferred_types(self.model)
        for name in made:
            if name in types:
                self.model.graph.value_info.add(name=name).type.CopyFrom(types[name])


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _divide(node: NodeProto, first: NodeProto, second: NodeProto, use: LowRankUse, each: FactoredLayer) -> None:
    """Give each of two convolutions its axes of a window."""
    op, cut = use.op, each.cut
    kernel, window = op.kernel, op.attributes
    rank = len(kernel)
    strides, dilations = (given or (1,) * rank for given in (window.strides, window.dilations))
    pads = window.pads or (0,) * (2 * rank)
    automatic = window.auto_pad not in {None, "", "NOTSET"}
    for one, own in ((first, range(cut)), (second, range(cut, rank))):

        def pick(values: Sequence[int], other: int, own: range = own) -> list[int]:
            return [value if axis % rank in own else other for axis, value in enumerate(values)]

        attributes: dict[str, object] = {
            "kernel_shape": pick(kernel, 1),
            "strides": pick(strides, 1),
            "dilations": pick(dilations, 1),
            "pads": None if automatic else pick(pads, 0),
            "group": Attributes(node).integer("group", 1),
        }
        if automatic:
            attributes["auto_pad"] = window.auto_pad
        _set(one, attributes)


def _set(node: NodeProto, attributes: Mapping[str, object]) -> None:
    """Set attributes of a node; None takes one away."""
    left = [attribute for attribute in node.attribute if attribute.name not in attributes]
    left += [helper.make_attribute(name, value) for name, value in attributes.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend(left)


def _stored(banks: AnyArray, layer: LowRankLayer) -> AnyArray:
    """Bring a filter bank (g, o, c, *k) to where an op reads it; that of a matrix product to (c, o)."""
    if layer.uses[0].op.kind == "matmul":
        return banks[0].T
    return banks.reshape(-1, *banks.shape[2:])


def _rounded(array: AnyArray, dtype: np.dtype[np.generic]) -> AnyArray:
    """Round to the type of the weights, to no subnormal number."""
    return without_new_subnormal(np.asarray(array, np.float64), np.zeros((), dtype))
