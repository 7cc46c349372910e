"""The oracle's other side of a sparsification: the original whose weights the graph multiplies by factors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import Floats
from onnxpfp.model.constants import all_graphs, all_names
from onnxpfp.model.edit import add_constants, replace_nodes
from onnxpfp.model.names import free_name

__all__ = ["with_weight_factors"]


def with_weight_factors(
    model: ModelProto, factors: Mapping[str, Floats], readers: Mapping[str, str], dtypes: Mapping[str, int]
) -> ModelProto:
    """Let nodes read their weights times factors, which a Mul computes in the graph; no stored number changes.

    Args:
        model: The model; it is not changed.
        factors: Factors by the name of the weight, in its shape.
        readers: Name of the weight that a node reads as its second input, by the node's first output.
        dtypes: Element type of each weight.
    """
    out = ModelProto()
    out.CopyFrom(model)
    names = set[str]().union(*map(all_names, all_graphs(out)))
    constants: list[TensorProto] = []
    made: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in out.graph.node:
        weight = readers.get(node.output[0]) if node.output else None
        if weight is not None:
            if weight not in made:
                stem, made[weight] = (free_name(f"{weight}_{what}", names) for what in ("factors", "times_factors"))
                dtype = helper.tensor_dtype_to_np_dtype(dtypes[weight])
                constants.append(numpy_helper.from_array(np.asarray(factors[weight]).astype(dtype), stem))
                # What the file computes of a weight stands in its place: it is what the node reads.
                nodes.append(helper.make_node("Mul", [node.input[1], stem], [made[weight]]))
            node.input[1] = made[weight]
        nodes.append(node)
    replace_nodes(out.graph, nodes)
    add_constants(out, constants)
    return out
