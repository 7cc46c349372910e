"""The linear ops that can be refitted: those of a pruned group, and all others, for their inputs drift as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxpfp.arrays import Bools, Floats, Ids, Keep
from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.bias import BiasEditor, stored_bias
from onnxpfp.linear.describe import constant_consumer, linear_op
from onnxpfp.linear.layout import output_axis
from onnxpfp.linear.ops import FileWeight, LinearOp
from onnxpfp.linear.quantized import QuantizedWeight, quantized_weight
from onnxpfp.linear.weights import own_weights
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.folding import widened
from onnxpfp.model.shapes import Shapes
from onnxpfp.refit.recurrent_layers import is_recurrence
from onnxpfp.refit.targets import RegressionTarget, TargetFinder
from onnxpfp.rewrite.edits import Edits

__all__ = ["KeptParts", "RefitLayer", "kept_parts", "kept_weights", "refit_layers", "with_weights"]


@dataclass(frozen=True, slots=True, eq=False)
class RefitLayer:
    """One linear op with constant weights.

    Attributes:
        consumer: The op as a consumer of channels.
        op: The same as a linear op.
        stored: The stored tensor that its weights come from.
        quantized: How these are made of integers; None where they are not.
        rows: Channel ids of its outputs, (O,).
        axis: Their axis in the output.
        gain: What the product is multiplied by (alpha of Gemm).
        bias: What is added to it, (O,).
        biased: Whether its bias, or whatever is one for it, can change.
        target: Where its output is compared.
    """

    consumer: Consumer
    op: LinearOp
    stored: str
    quantized: QuantizedWeight | None
    rows: Ids
    axis: int
    gain: float
    bias: Floats
    biased: bool
    target: RegressionTarget

    @property
    def columns_key(self) -> tuple[object, ...]:
        """The key of the op's columns: ops that agree in it have the same."""
        op = self.op
        return self.consumer.data, self.consumer.data_axis, op.kind, op.kernel, op.group, op.attributes

    @property
    def output(self) -> str:
        """Name of the op's output."""
        return self.consumer.output

    def taps(self) -> Floats:
        """Return the weights in canonical form V (C, O/g, *kernel), times the gain."""
        return self.gain * self.op.taps().astype(np.float64)


def refit_layers(analysis: Analysis) -> tuple[tuple[RefitLayer, ...], tuple[tuple[str, str], ...]]:
    """List all linear ops that can be refitted, in the order of the nodes.

    Returns:
        The ops, and consumers of channels that cannot be refitted, with the reason; recurrences are among neither.
    """
    shapes, stored, source = analysis.shapes, own_weights(analysis), analysis.source
    wide = frozenset[str]() if source.flat is None else widened(source.flat, source.model)
    known = {consumer.node: consumer for consumer in analysis.graph.consumers}
    editor, target_finder = BiasEditor.of(analysis, Edits()), TargetFinder(analysis)
    layers: list[RefitLayer] = []
    left: list[tuple[str, str]] = []
    for index, node in enumerate(analysis.model.graph.node):
        consumer = known.get(index) or constant_consumer(index, analysis)
        if consumer is None or is_recurrence(node):
            continue
        quantized = quantized_weight(analysis, consumer) if consumer.constant and index not in stored else None
        if quantized is not None:
            stored[index] = quantized.steps
        reason = _obstacle(consumer, node, shapes, stored)
        if not reason and stored[index] in wide:
            reason = "its weights are computed from fewer numbers than they are, and a refit would store them"
        if reason:
            if index in known:
                left.append((consumer.name, reason))
            continue
        op = linear_op(consumer.name, consumer, analysis)
        axis = output_axis(len(shapes.shape[consumer.output]), matrix=op.kind == "matmul")
        rows = analysis.graph.axes[consumer.output][axis]
        bias = stored_bias(node, analysis.constants, rows.size)
        if bias is None or isinstance(op.weight, FileWeight):
            left.append(
                (consumer.name, "its bias is no constant vector" if bias is None else "its weights lie in a file")
            )
            continue
        gain = Attributes(node).real("alpha", 1.0)
        regression_target = target_finder.target(consumer.output, rows.size, axis)
        # A bias in floating point that comes in would keep the op from being computed in integers.
        unbiased = quantized is not None and quantized.bias is None and facts_of(node).bias is not None
        biased = not unbiased and _biased(editor, consumer, rows.size)
        layers.append(
            RefitLayer(consumer, op, stored[index], quantized, rows, axis, gain, bias, biased, regression_target)
        )
    return tuple(layers), tuple(left)


def _obstacle(consumer: Consumer, node: NodeProto, shapes: Shapes, stored: Mapping[int, str]) -> str:
    """Say why an op cannot be refitted; empty where it can."""
    if not facts_of(node).linear:
        return f"{node.op_type} is no Conv, ConvTranspose, Gemm or MatMul"
    if not consumer.constant or consumer.form not in {"conv", "conv_transpose", "matrix"}:
        return "both operands are activations"
    if consumer.node not in stored:
        return "its weights are shared or no plain floating-point constants"
    if consumer.form == "matrix" and (len(shapes.shape[consumer.weight]) != 2 or consumer.data_input != 0):
        return "its weights are no plain matrix on the right"
    if len(shapes.shape[consumer.data]) < 2:
        return "its data are a vector"
    return ""


def _biased(editor: BiasEditor, consumer: Consumer, size: int) -> bool:
    """Find out whether a shift can be folded into whatever is the bias of an op."""
    before = len(editor.left)
    editor.fold(consumer, np.zeros(size))
    return len(editor.left) == before


class KeptParts(NamedTuple):
    """What the convolution groups of an op keep.

    Attributes:
        groups: Those that keep anything, ascending, (g,).
        inputs: Their inputs, (g, i).
        outputs: Their outputs, (g, o).
    """

    groups: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


def kept_parts(layer: RefitLayer, keep: Keep) -> KeptParts | None:
    """Return the kept inputs and outputs of every convolution group; None where they keep unequal parts, or nothing."""
    sides = [keep[channels].reshape(layer.op.group, -1) for channels in (layer.op.channels, layer.rows)]
    counts = np.array([stays.sum(1) for stays in sides])
    some: Bools = np.all(counts, axis=0)
    groups = np.flatnonzero(some)
    if not groups.size or (counts[:, groups] != counts[:, groups[:1]]).any():
        return None
    inputs, outputs = (np.flatnonzero(stays & some[:, None]).reshape(groups.size, -1) for stays in sides)
    return KeptParts(groups, inputs, outputs)


def kept_weights(layer: RefitLayer, taps: Floats, keep: Keep) -> Floats | None:
    """Cut the weights down to what stays, (g, o, c * k); None where the groups keep unequal parts, or nothing.

    Args:
        layer: The op.
        taps: Its weights in canonical form V (C, O/g, *kernel).
        keep: Whether each channel stays.
    """
    kept = kept_parts(layer, keep)
    if kept is None:
        return None
    flat = taps.reshape(*taps.shape[:2], -1)
    blocks = flat[_places(kept, taps)]
    return blocks.reshape(*blocks.shape[:2], -1)


def with_weights(layer: RefitLayer, taps: Floats, keep: Keep, weights: Floats) -> Floats:
    """Put weights (g, o, c * k) of what stays, of which each group keeps as much, into a copy of the canonical form."""
    kept = kept_parts(layer, keep)
    assert kept is not None
    full = taps.reshape(*taps.shape[:2], -1).copy()
    full[_places(kept, taps)] = weights.reshape(*weights.shape[:2], kept.inputs.shape[1], -1)
    return full.reshape(taps.shape)


def _places(kept: KeptParts, taps: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where what stays lies in the canonical form, with axes (g, o, i)."""
    return kept.inputs[:, None, :], kept.outputs[:, :, None] % taps.shape[1]
