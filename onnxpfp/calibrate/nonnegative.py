"""Proofs that tensors have no negative entry: what reads them needs only half of the sign quadrants.

Conservative: a tensor that no rule speaks for is taken to have both signs. One pass in topological order.

Cases:
    1. The op's range has no negative number (Relu, Softmax, Clip from 0 ...).
    2. The op moves, picks, averages or takes maxima of values of its first input (pooling, Reshape ...).
    3. The op adds, multiplies or joins non-negative inputs only.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from onnxpfp.channels.ops import FACTS, op_name
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import FLOAT_TYPES, Constants

__all__ = ["nonnegative_tensors"]


def nonnegative_tensors(model: ModelProto) -> frozenset[str]:
    """List the node outputs of the main graph that are never negative."""
    constants = Constants.of(model)
    nonnegative: set[str] = set()
    for node in model.graph.node:
        if _is_nonnegative(node, nonnegative, constants):
            nonnegative.update(node.output)
    return frozenset(nonnegative)


def _is_nonnegative(node: NodeProto, nonnegative: set[str], constants: Constants) -> bool:
    kind = op_name(node.op_type, node.domain)
    options, facts = Attributes(node), FACTS.get(kind)
    sign = None if facts is None else facts.sign
    first = bool(node.input) and node.input[0] in nonnegative
    if sign == "never negative":
        return True
    if kind == "Clip":
        return first or _clips_at_zero(node, options, constants)
    if kind == "Cast" and options.integer("to", 0) not in FLOAT_TYPES:
        return False  # a cast to a narrow integer wraps around
    if kind == "Resize" and (options.text("mode", "nearest") == "cubic" or "extrapolation_value" in options):
        return False  # cubic overshoots
    if sign == "of the first input" or kind in {"Cast", "Resize", "Upsample"}:
        return first
    return sign == "of all inputs" and bool(node.input) and all(name in nonnegative for name in node.input)


def _clips_at_zero(node: NodeProto, options: Attributes, constants: Constants) -> bool:
    if "min" in options:
        return options.real("min", -1.0) >= 0
    if len(node.input) < 2 or node.input[1] not in constants.names:
        return False
    lowest = constants.value(node.input[1])
    return lowest.size == 1 and float(lowest.ravel()[0]) >= 0
