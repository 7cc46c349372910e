"""Two nodes in the place of one, in a copy of the file; and the original with the product of the factors in its place.

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
from onnxpfp.model.constants import all_names, graphs_in
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE, add_constants, drop_unread, replace_nodes
from onnxpfp.model.names import free_name, node_name
from onnxpfp.model.recorded import inferred_types
from onnxpfp.model.subnormal import without_new_subnormal

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
        product: What both compute, as the layer's ops read their weights.
        bias: The new bias, (O,); None where it stays.
    """

    layer: LowRankLayer
    cut: int
    factors: Factors
    first: AnyArray
    second: AnyArray
    product: AnyArray
    bias: AnyArray | None

    @classmethod
    def of(
        cls, layer: LowRankLayer, cut: int, factors: Factors, dtype: np.dtype[np.generic], bias: Floats | None
    ) -> FactoredLayer:
        """Bring factors to the type and form in which ops read weights; the product is that of the rounded ones."""
        banks = [_rounded(each, dtype) for each in (factors.first, factors.second)]
        written = Factors(banks[0].astype(np.float64), banks[1].astype(np.float64))
        first, second, product = (_stored(each, layer) for each in (*banks, _rounded(written.product(), dtype)))
        rounded = None if bias is None else _rounded(bias, dtype)
        return cls(layer, cut, written, first, second, product.T if layer.transposed else product, rounded)


def with_factors(model: ModelProto, layers: Iterable[FactoredLayer]) -> ModelProto:
    """Put two nodes in the place of every op of the layers.

    Args:
        model: The model; it is not changed.
        layers: The layers; outputs of their ops are found by name.
    """
    return _Rewriting.of(model).run(layers, split=True)


def with_products(model: ModelProto, layers: Iterable[FactoredLayer]) -> ModelProto:
    """Put the products of the factors in the place of the weights, and new biases in that of the old: the oracle."""
    return _Rewriting.of(model).run(layers, split=False)


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

    def run(self, layers: Iterable[FactoredLayer], *, split: bool) -> ModelProto:
        """Rewrite all layers."""
        graph = self.model.graph
        new: dict[str, list[NodeProto]] = {}
        made: list[str] = []
        nodes = {name: node for node in graph.node for name in node.output}
        for each in layers:
            stem = each.layer.weight
            arrays = {"first": each.first, "second": each.second} if split else {"product": each.product}
            weights = [self._constant(array, f"{stem}/low_rank_{name}") for name, array in arrays.items()]
            for use in each.layer.uses:
                node = nodes[use.output]
                self.unread.append(node.input[1])
                second = self._changed(node, weights[-1], each)
                new[use.output] = [second]
                if split:
                    _set(second, {"transB": None} if each.layer.transposed else {})
                    first = self._first(node, second, weights[0], use, each)
                    made.append(first.output[0])
                    new[use.output].insert(0, first)
        replace_nodes(graph, (one for node in graph.node for one in new.get(node.output[0], [node])))
        self._drop()
        add_constants(self.model, self.added)
        if made:
            self._record(made)
        return self.model

    def _constant(self, array: AnyArray, stem: str) -> str:
        name = free_name(stem, self.names)
        self.added.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _changed(self, node: NodeProto, weight: str, each: FactoredLayer) -> NodeProto:
        """Copy a node with other weights, and its new bias."""
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[1] = weight
        if each.bias is not None:
            name = self._constant(each.bias, f"{each.layer.weight}/low_rank_bias")
            if len(copy.input) > 2:
                self.unread.append(copy.input[2])
                copy.input[2] = name
            else:
                copy.input.append(name)
        return copy

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
            "group": op.group,
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


def _rounded(numbers: AnyArray, dtype: np.dtype[np.generic]) -> AnyArray:
    """Round to the type of the weights, to no subnormal number."""
    return without_new_subnormal(np.asarray(numbers, np.float64), np.zeros((), dtype))
