"""Which tensors provably have no negative entry: their readers need only half of the sign quadrants.

Conservative: a tensor that no rule speaks for is taken to have both signs. One pass in topological order.

Cases:
    1. The op's range has no negative number (Relu, Softmax, Clip from 0 ...).
    2. The op moves, picks, averages or takes maxima of values of its first input (pooling, Reshape ...).
    3. The op adds, multiplies or joins non-negative inputs only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.channels.ops import FACTS, op_name
from onnxpfp.model.constants import FLOAT_TYPES

__all__ = ["nonnegative_tensors"]


def nonnegative_tensors(nodes: Iterable[Any]) -> frozenset[str]:
    """List the node outputs that are never negative.

    Args:
        nodes: graphsurgeon nodes in topological order.
    """
    found: set[str] = set()
    for node in nodes:
        if _is_nonnegative(node, found):
            found.update(str(output.name) for output in node.outputs)
    return frozenset(found)


def _is_nonnegative(node: Any, found: set[str]) -> bool:
    inputs = [str(tensor.name) for tensor in node.inputs]
    kind = op_name(str(node.op), node.domain)
    facts = FACTS.get(kind)
    sign = None if facts is None else facts.sign
    if sign == "never negative":
        return True
    if kind == "Clip":
        return (bool(inputs) and inputs[0] in found) or _clips_at_zero(node)
    if kind == "Cast" and node.attrs.get("to") not in FLOAT_TYPES:
        return False  # a cast to a narrow integer wraps around
    if kind == "Resize" and (
        _text(node.attrs.get("mode", "nearest")) == "cubic" or "extrapolation_value" in node.attrs
    ):
        return False  # cubic overshoots
    if sign == "of the first input" or kind in {"Cast", "Resize", "Upsample"}:
        return bool(inputs) and inputs[0] in found
    return sign == "of all inputs" and bool(inputs) and all(name in found for name in inputs)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _clips_at_zero(node: Any) -> bool:
    lowest = node.attrs.get("min")
    if lowest is None and len(node.inputs) > 1:
        lowest = _scalar(node.inputs[1])
    return lowest is not None and float(lowest) >= 0


def _scalar(tensor: Any) -> float | None:
    """Read a constant operand, also one that a Constant node brings forth."""
    values = getattr(tensor, "values", None)
    if values is None and tensor.inputs and tensor.inputs[0].op == "Constant":
        attribute = tensor.inputs[0].attrs.get("value")
        values = getattr(attribute, "values", None)
    if not isinstance(values, np.ndarray) or values.size != 1:
        return None
    return float(cast("NDArray[Any]", values).reshape(()))
