"""Channels that their consumers cannot tell from their biases.

A consumer computes y_k = sum_j V_kj x_j + b_k. Let B_j bound |x_j|, u be the unit roundoff of the type of b_k, and n
the number of indices that add up in y_k. A channel is negligible if of each of its indices j, and for every output k,

    n |V_kj| B_j  <=  u/2 |b_k|

with |V_kj| the sum over taps. All such channels together then move y_k by no more than u/2 |b_k|. That is at most half
the way from b_k to the next float on either side: what they add is a change of b_k that rounds back to b_k. So without
them the consumer computes what it does with a bias that its stored number stands for just as well, for every input, and
whatever follows. The bias is what `linear.bias.BiasEditor` would add to: a consumer that has none, or a zero, can tell.

B_j is, with data, the largest |x_j| on all samples times the headroom (`model.subnormal`). Without, it is the reach of
the channel by the weights (`linear.reach`), where nothing is in doubt about it, times 2^32: so it holds for every input
with which no layer reads a norm of more than that (4e9).
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import replace

import numpy as np
from onnx import helper

from onnxpfp.arrays import Bools, Floats, chunks
from onnxpfp.channels import Analysis
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.bias import BiasEditor
from onnxpfp.linear.ops import LinearOp, output_counts
from onnxpfp.linear.reach import reaches_of
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.subnormal import headroom, unit_roundoff
from onnxpfp.rewrite.edits import Edits

__all__ = ["bounds_by_weights", "negligible_indices"]

LARGEST_NORM = 2.0**32
"""Of what a layer reads, where no data say how large it is."""


def bounds_by_weights(analysis: Analysis) -> Floats:
    """Bound the magnitude of every channel where its consumers read it, (count + 1,): infinite where in doubt."""
    reaches = reaches_of(analysis)
    bounds = np.full(analysis.graph.count + 1, np.inf)
    for group, doubt in zip(analysis.graph.groups, reaches.doubts, strict=True):
        if not doubt:
            bounds[group.channels] = LARGEST_NORM * reaches.values[group.channels]
    return bounds


def negligible_indices(analysis: Analysis, position: int, op: LinearOp, magnitude: Floats, *, bounded: bool) -> Bools:
    """Tell which indices a consumer cannot tell from its bias, (C,).

    Args:
        analysis: The model.
        position: Of the consumer.
        op: The same as a linear op with weights.
        magnitude: How far from zero each index is, (C,).
        bounded: Whether that is a bound; else it is what was seen.
    """
    none = np.zeros(magnitude.size, np.bool_)
    known = np.where(np.isfinite(magnitude), magnitude, 0.0)
    # What is more than rounding of the largest number beside it is rarely negligible, and not looked at.
    step = unit_roundoff(helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[op.data]))
    candidates = (known > 0) & (known <= step * known.max(initial=0.0))
    limits = _limits(analysis, position, op) if candidates.any() else None
    if limits is None:
        return none
    taps, limit = op.taps(), limits[0].reshape(op.group, -1)
    ahead = 1.0 if bounded else limits[1]
    inputs = len(taps) // op.group
    small = none.copy()
    for run in chunks(len(taps), 8 * taps[0].size):
        part = np.abs(taps[run].astype(np.float64)).reshape(*taps[run].shape[:2], -1).sum(2)
        block = np.arange(len(taps))[run] // inputs
        moved = inputs * ahead * known[run, None] * part
        small[run] = (moved <= limit[block]).all(1)
    return small & candidates


def _limits(analysis: Analysis, position: int, op: LinearOp) -> tuple[Floats, float] | None:
    """Return how far every output's products may move so that its bias does not tell, (O,), and the headroom.

    Returns:
        None where it has no bias of floating-point numbers.
    """
    consumer = analysis.graph.consumers[position]
    editor = BiasEditor.of(analysis, Edits())
    trial = replace(editor, tensors=ChainMap({}), inputs={}, left=[], folded=[])
    trial.fold(consumer, np.zeros(output_counts(op)[0]))
    changed = [*trial.edits.tensors.values(), *(new.array for new in trial.edits.inputs.values())]
    if trial.left or len(changed) != 1 or changed[0].dtype.kind in "iu":
        return None
    node = analysis.model.graph.node[consumer.node]
    gain = 1.0
    if facts_of(node).bias is not None:
        gain = abs(Attributes(node).real("alpha", 1.0) / Attributes(node).real("beta", 1.0))
    if not gain:
        return None
    bias = np.abs(changed[0].astype(np.float64)).ravel()
    return unit_roundoff(changed[0].dtype) / 2 * bias / gain, headroom(changed[0].dtype)
