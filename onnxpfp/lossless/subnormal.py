"""Weights of linear ops that are subnormal, and filters that nothing can tell from their bias: what can be zero.

A filter k computes y_k = sum_i w_ki x_i + b_k. Let s_i be the largest |x_i| that was seen, u the unit roundoff of the
type that the op computes in, and H the headroom (`model.subnormal`). With products times alpha and biases times beta in
a Gemm, these become zero:

    1. all weights of the filter, if   H sum_i |w_ki| s_i  <=  u/2 |b_k|:   the output is its bias then, a constant;
    2. else each of its n subnormal weights for which   n H |w_ki| s_i  <=  u/2 max(|b_k|, sum_i |w_ki| s_i).

Proof that this is exact up to rounding. As long as no x_i is more than H times what was seen (what was never seen to be
but zero counts as 1/H of the largest), y_k moves by no more than the right side. Against the bias: u/2 |b_k| is at most
half the way from b_k to the next float on either side, so zeros move y_k no more than a change of b_k that rounds back
to b_k. Against the other weights: zeros move y_k no more than changing all of them by u/2 of themselves can where
inputs are as large as seen, which is half of what rounding the weights to their type may have done already (the
normwise backward error of a sum of products; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 3.1).
Both are changes of stored numbers below their own rounding, so it does not matter what y_k is multiplied by later.

A filter all of whose weights are as small as that, and whose bias is no larger, is left alone: a later factor may lift
it. Whether what reads it can tell is asked of its channel (`negligible`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxpfp.arrays import AnyArray, Bools, Floats, chunks
from onnxpfp.calibrate.observer import Shape
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.bias import stored_bias
from onnxpfp.linear.layout import filters
from onnxpfp.linear.weights import linear_weights, own_weights, stored_form
from onnxpfp.lossless.detect import Trace
from onnxpfp.lossless.traces import Site
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.subnormal import count_subnormal, headroom, is_subnormal, smallest_normal, unit_roundoff
from onnxpfp.rewrite.edits import Edits

__all__ = ["SubnormalWeights", "of_file", "subnormal_channels", "subnormal_weights", "zeroed_weights"]

MATRIX = 2
"""Axes of a matrix; stacks of matrices are left alone, and so are transposed convolutions in groups."""


@dataclass(frozen=True, slots=True)
class SubnormalWeights:
    """Subnormal numbers among the weights of linear ops that the file stores.

    Attributes:
        weights: How many there are.
        tensors: In how many stored tensors.
        zeroed: Weights that are written as zero: subnormal ones, and all others of filters that nothing can tell from
            their bias.
    """

    weights: int = 0
    tensors: int = 0
    zeroed: int = 0

    def __add__(self, other: SubnormalWeights) -> SubnormalWeights:
        return SubnormalWeights(self.weights + other.weights, self.tensors + other.tensors, self.zeroed + other.zeroed)


def subnormal_weights(analysis: Analysis) -> dict[str, int]:
    """Count the subnormal weights of linear ops, by tensor; only those that have some."""
    counts = {name: count_subnormal(analysis.constants.value(name)) for name in linear_weights(analysis)}
    return {name: count for name, count in counts.items() if count}


def subnormal_channels(analysis: Analysis) -> Bools:
    """Tell which channels have an index with a subnormal weight on some axis, (count + 1,)."""
    found = np.zeros(analysis.graph.count + 1, np.bool_)
    for name in subnormal_weights(analysis):
        tiny = is_subnormal(analysis.constants.value(name))
        for axis, ids in enumerate(analysis.graph.axes[name]):
            found[ids[tiny.any(tuple(other for other in range(tiny.ndim) if other != axis))]] = True
    return found


def of_file(analysis: Analysis, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of tensors that the file stores: others are computed from those, and may be so again."""
    stored = stored_tensors((analysis.source.flat or analysis.model).graph)
    return {name: count for name, count in counts.items() if name in stored}


def zeroed_weights(
    analysis: Analysis,
    subnormal: Collection[str],
    traces_of: Callable[[Collection[Site], Mapping[str, Shape]], Mapping[Site, Trace]],
) -> tuple[Edits, dict[str, int]]:
    """Write as zero what can be.

    Args:
        analysis: The model.
        subnormal: Stored tensors with subnormal numbers, as far as they may change.
        traces_of: Takes the traces of tensors along their axes, of these shapes.

    Returns:
        The new weights, and how many of each tensor became zero.
    """
    ops = [op for op in _ops(analysis) if op.stored in subnormal]
    if not ops:
        return Edits(), {}
    traces = traces_of(dict.fromkeys(op.site for op in ops), analysis.shapes.shape)
    tensors: dict[str, AnyArray] = {}
    zeroed: dict[str, int] = {}
    for op in ops:
        new = np.array(analysis.constants.value(op.weight))
        dtype = analysis.constants.value(op.stored).dtype
        count = _zero(filters(new, op.node), op, traces[op.site].scale, dtype)
        if count:
            zeroed[op.stored] = count
            tensors[op.stored] = stored_form(analysis, op.weight, new)
    return Edits(tensors), zeroed


@dataclass(frozen=True, slots=True, eq=False)
class _Op:
    """A linear op whose weights nothing else reads.

    Attributes:
        node: Its node.
        weight: What it reads as its weights.
        stored: Where they are stored.
        site: What it reads, and the axis that it contracts.
        bias: What it adds to its outputs, (O,).
        gain: How large what its products are multiplied by is.
    """

    node: NodeProto
    weight: str
    stored: str
    site: Site
    bias: Floats
    gain: float


def _ops(analysis: Analysis) -> Iterator[_Op]:
    constants, shapes = analysis.constants, analysis.shapes.shape
    for position, stored in own_weights(analysis).items():
        node = analysis.model.graph.node[position]
        layout, (data, weight) = facts_of(node).layout, node.input[:2]
        if layout is None or data in constants.names or not constants.value(weight).size:
            continue
        grouped = layout == "conv_transpose" and Attributes(node).integer("group", 1) > 1
        if grouped or (layout == "matrix" and len(shapes[weight]) != MATRIX):
            continue
        axis = 1 if layout != "matrix" else 0 if Attributes(node).integer("transA", 0) else len(shapes[data]) - 1
        outputs = len(filters(constants.value(weight), node))
        bias = stored_bias(node, constants, outputs)
        added = np.zeros(outputs) if bias is None else bias
        yield _Op(node, weight, stored, (data, axis), added, abs(Attributes(node).real("alpha", 1.0)))


def _zero(rows: AnyArray, op: _Op, scale: Floats, stored: np.dtype[Any]) -> int:
    """Put zeros where nothing can tell, and count them.

    Args:
        rows: The filters, (O, C/g, *kernel): a view of new weights.
        op: The op.
        scale: The largest magnitude that was seen of every index that it contracts, (C,).
        stored: The type in which the weights are stored; the op may read them in another.
    """
    largest, group = float(scale.max(initial=0.0)), scale.size // rows.shape[1]
    if not 0 < largest < np.inf:
        return 0
    limit, ahead, tiny = unit_roundoff(rows.dtype) / 2, headroom(stored), smallest_normal(stored)
    seen, most = (each.reshape(group, -1, 1) for each in (scale, np.maximum(scale, largest / ahead)))
    count = 0
    for run in chunks(len(rows), 8 * rows[0].size):
        block = np.arange(len(rows))[run] // (len(rows) // group)
        part = np.abs(rows[run].astype(np.float64)).reshape(len(block), rows.shape[1], -1)
        small, bias = (part < tiny) & (part > 0), np.abs(op.bias[run])[:, None, None]
        usual, farthest = (op.gain * (part * each[block]).sum((1, 2), keepdims=True) for each in (seen, most))
        of_small = op.gain * small.sum((1, 2), keepdims=True) * part * most[block]
        whole = ahead * farthest <= limit * bias
        some = ahead * of_small <= limit * np.maximum(bias, usual)
        zero = (whole & (part > 0)) | (some & small)
        count += int(zero.sum())
        rows[run][zero.reshape(rows[run].shape)] = 0
    return count
