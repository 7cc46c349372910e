"""Decisions inside of the bodies of If and Loop, where these have weights: shown outside, and taken as given.

What a body decides on becomes one more result of its node: of an If as it is (nothing where the other branch ran), of a
Loop turn by turn. Another copy of the model reads these numbers in the body in place of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.channels.macs import multiplies
from onnxpfp.comparison.decisions import (
    STATE,
    behind_products,
    decided_on,
    decision_of,
    redirect,
)
from onnxpfp.model.edit import GIVEN, replace_nodes
from onnxpfp.model.names import first_output
from onnxpfp.model.opset import standard_opset

__all__ = ["InnerDecision", "deciding_inside_on_given", "showing_inside"]

CASTS_LIKE_SINCE = 15
"""First opset with CastLike, which gives a number the type of another whatever that is."""


@dataclass(frozen=True, slots=True)
class InnerDecision:
    """A tensor that something inside of a body decides on.

    Attributes:
        node: First output of the node that has the body.
        body: Name of the attribute that holds it.
        tensor: The tensor.
    """

    node: str
    body: str
    tensor: str

    @property
    def shown(self) -> str:
        """Name of the result of the node that shows it, in float64."""
        return f"onnxpfp_shown_{self.tensor}"


def _bodies(node: NodeProto) -> Iterator[AttributeProto]:
    if node.op_type in {"If", "Loop"} and multiplies(node):
        yield from (attribute for attribute in node.attribute if attribute.type == AttributeProto.GRAPH)


def _decided_in(node: NodeProto, body: GraphProto) -> list[str]:
    """Return what a body makes and decides on, as far as weights in it decide: it may be in the state of a Loop."""
    states = [info.name for info in body.input[STATE:]] if node.op_type == "Loop" else []
    behind = behind_products(body, states)
    own = {name for each in body.node for name in each.output} | set(states)
    read = {name for each in body.node if decision_of(each) is not None for name in decided_on(each)}
    return sorted(behind & own & read)


def showing_inside(model: ModelProto) -> tuple[ModelProto, tuple[InnerDecision, ...]]:
    """Copy a model so that its nodes show what their bodies decide on; there is nothing to show before opset 15."""
    copy = ModelProto()
    copy.CopyFrom(model)
    found: list[InnerDecision] = []
    for node in copy.graph.node if standard_opset(model) >= CASTS_LIKE_SINCE else ():
        for attribute in list(_bodies(node)):
            for tensor in _decided_in(node, attribute.g):
                inner = InnerDecision(first_output(node), attribute.name, tensor)
                found.append(inner)
                _show(node, attribute, inner)
    return copy, tuple(found)


def _show(node: NodeProto, shown_in: AttributeProto, inner: InnerDecision) -> None:
    """Add a result to a node and to all its bodies."""
    node.output.append(inner.shown)
    for attribute in _bodies(node):
        body, name = attribute.g, inner.shown if attribute is shown_in else f"{inner.shown}_elsewhere"
        name = f"{name}_inside"
        if attribute.name == shown_in.name:
            body.node.append(helper.make_node("Cast", [inner.tensor], [name], to=TensorProto.DOUBLE))
        else:
            nothing = numpy_helper.from_array(np.zeros(0), name)
            body.node.append(helper.make_node("Constant", [], [name], value=nothing))
        body.output.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, None))


def deciding_inside_on_given(model: ModelProto, decisions: Sequence[InnerDecision]) -> ModelProto:
    """Copy a model so that its bodies decide on inputs of the model, called as what shows them with `GIVEN` before it.

    Args:
        model: A model that shows what its bodies decide on.
        decisions: What they do.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = {first_output(node): node for node in copy.graph.node}
    for inner in decisions:
        node = nodes[inner.node]
        body = next(attribute.g for attribute in node.attribute if attribute.name == inner.body)
        given, own = GIVEN + inner.shown, f"{GIVEN}{inner.tensor}_inside"
        picked = f"{own}_turn" if node.op_type == "Loop" else given
        before = [helper.make_node("CastLike", [picked, inner.tensor], [own])]
        if node.op_type == "Loop":
            before.insert(0, helper.make_node("Gather", [given, body.input[0].name], [picked], axis=0))
        position = next((i for i, each in enumerate(body.node) if inner.tensor in each.output), -1) + 1
        for each in body.node:
            if decision_of(each) is not None:
                redirect(each, {inner.tensor: own})
        replace_nodes(body, [*body.node[:position], *before, *body.node[position:]])
        copy.graph.input.append(helper.make_tensor_value_info(given, TensorProto.DOUBLE, None))
    return copy
