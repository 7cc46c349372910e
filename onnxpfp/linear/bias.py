"""The bias of a linear op, or whatever is one for it: where a shift of its outputs can go.

A consumer computes y = sum_j W_j * x_j + b over its channels j. Where channel j goes (factor f_j = 0) or is reweighted
(f_j), the mean of y moves by -(1 - f_j) W_j * E[u_j], with u_j the unfolded input: all kernel taps over all output
positions, padding zeros included (`mean_shift`). Counting the padding zeros is what makes it right where windows reach
over a border.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxpfp.arrays import AnyArray, Floats, chunks
from onnxpfp.channels import Analysis, Consumer
from onnxpfp.channels.ops import facts_of
from onnxpfp.linear.layout import output_axis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.quantized import QuantizedWeight
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import Constants
from onnxpfp.model.index import ModelIndex, Use
from onnxpfp.model.subnormal import without_new_subnormal
from onnxpfp.rewrite.edits import Edits, NewInput

__all__ = ["BiasEditor", "mean_shift", "new_biases", "stored_bias"]


MEAN = 3
"""Input of BatchNormalization that holds the mean."""


def mean_shift(op: LinearOp, mean: Floats, factor: Floats) -> Floats:
    """Return what the dropped and reweighted channels took from the mean of every output.

    Args:
        op: The consumer.
        mean: Mean of every unfolded input entry, (C, taps) float64.
        factor: Factor by channel id; 0 for dropped channels.

    Returns:
        (O,) float64.
    """
    lost = (1 - factor[op.channels])[:, None] * mean
    taps = op.taps()
    group = np.arange(len(taps)) // (len(taps) // op.group)
    shift = np.zeros((op.group, taps.shape[1]))
    for run in chunks(len(taps), 8 * taps.size // len(taps)):
        part = taps[run].astype(np.float64)
        part = part.reshape(*part.shape[:2], -1)
        per_index = np.einsum("cot,ct->co", part, lost[run])
        groups, starts = np.unique(group[run], return_index=True)
        shift[groups] += np.add.reduceat(per_index, starts, axis=0)
    return shift.ravel()


@dataclass(slots=True, eq=False)
class BiasEditor:
    """Adds numbers to the outputs of linear ops through whatever is their bias, and collects what changes.

    Attributes:
        analysis: The model.
        tensors: New numbers of stored tensors, on top of those of edits made before.
        inputs: New constants of single nodes, likewise.
        left: Consumers whose bias could not be changed, with the reason.
        folded: Consumers whose bias changed.
    """

    analysis: Analysis
    tensors: ChainMap[str, NDArray[np.generic]]
    inputs: dict[tuple[int, int], NewInput]
    left: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    folded: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, analysis: Analysis, edits: Edits) -> BiasEditor:
        """Start with edits that were made before."""
        tensors: ChainMap[str, NDArray[np.generic]] = ChainMap({}, cast("dict[str, Any]", edits.tensors))
        return cls(analysis, tensors, dict(edits.inputs))

    @property
    def _index(self) -> ModelIndex:
        return self.analysis.index

    @property
    def _constants(self) -> Constants:
        return self.analysis.constants

    @property
    def edits(self) -> Edits:
        """All edits so far."""
        return Edits(self.tensors, self.inputs)

    def fold(self, consumer: Consumer, shift: Floats) -> None:
        """Add `shift` to the bias of a consumer, or say why not."""
        node = self.analysis.model.graph.node[consumer.node]
        facts = facts_of(node)
        bias = facts.bias
        if bias is None and facts.linear:
            self._fold_after(consumer, node, shift)
            return
        if bias is not None and bias.kind == "steps":
            self._add_steps(consumer, node, bias.position, shift)
            return
        if bias is None or bias.kind == "packed":
            self.left.append((consumer.name, f"nothing is folded into a bias of {node.op_type}"))
            return
        options = Attributes(node)
        beta = options.real("beta", 1.0)
        shift = shift * options.real("alpha", 1.0)
        if beta == 0.0:
            self.left.append((consumer.name, "its beta is 0, so it has no bias"))
            return
        use = (consumer.node, bias.position)
        if len(node.input) > bias.position and node.input[bias.position]:
            self._add(consumer, use, node.input[bias.position], shift / beta)
            return
        norm = self._norm_behind(node)
        if norm is not None:
            self._add(consumer, (norm, MEAN), self.analysis.model.graph.node[norm].input[MEAN], -shift)
            return
        out = self.analysis.graph.axes[node.output[0]][1]
        dtype = self._constants.value(consumer.weight).dtype
        bias = without_new_subnormal(shift / beta, np.zeros((), dtype))
        self.inputs[use] = NewInput(bias, (out,), f"{consumer.weight}_bias")
        self.folded.append(consumer.name)

    def requantize(self, quantized: QuantizedWeight, weight: AnyArray | None) -> None:
        """Store new numbers of a quantized weight, and its bias at the scale that goes with theirs.

        Args:
            quantized: The weight.
            weight: The numbers; None leaves all as it is.
        """
        if weight is None:
            self.tensors.update({name: self._constants.value(name) for name in quantized.tensors})
            return
        new = quantized.of(weight.astype(np.float64))
        self.tensors[quantized.steps], self.tensors[quantized.scale] = new.steps, new.scale
        if quantized.bias is None:
            return
        steps, scale = quantized.bias
        old, old_scale = (self.tensors.get(name, self._constants.value(name)) for name in (steps, scale))
        self.tensors[scale] = (old_scale.astype(np.float64) * new.ratio.reshape(old_scale.shape)).astype(
            old_scale.dtype
        )
        ratio = self.tensors[scale].astype(np.float64) / old_scale.astype(np.float64)
        self.tensors[steps] = np.rint(old.astype(np.float64) / ratio).astype(old.dtype)

    def _add_steps(self, consumer: Consumer, node: NodeProto, position: int, shift: Floats) -> None:
        """Add to a bias of 32-bit integers, or bring one in."""
        use = (consumer.node, position)
        if len(node.input) > position and node.input[position]:
            self._add(consumer, use, node.input[position], shift)
            return
        out = self.analysis.graph.axes[node.output[0]][consumer.data_axis if consumer.form == "conv" else -1]
        self.inputs[use] = NewInput(np.rint(shift).astype(np.int32), (out,), f"{consumer.weight}_bias")
        self.folded.append(consumer.name)

    def _steps_behind(self, name: str, use: tuple[int, int]) -> tuple[tuple[int, int], str, Floats] | None:
        """Find the integers and the scale that a bias is made of, where nothing else reads it.

        onnxruntime computes in integers only where the bias stays one of integers.
        """
        index = self._index.producers.get(name)
        node = None if index is None else self.analysis.model.graph.node[index]
        if index is None or node is None or node.op_type != "DequantizeLinear":
            return None
        stored = self._constants.stored.get(node.input[0])
        plain = stored is not None and stored.data_type == TensorProto.INT32 and self._index.only_use(name) == use
        if not plain or node.input[1] not in self._constants.names:
            return None
        scale = self.tensors.get(node.input[1], self._constants.value(node.input[1]))
        return (index, 0), node.input[0], scale.astype(np.float64)

    def _norm_behind(self, node: NodeProto) -> int | None:
        """Find the BatchNormalization that alone reads a node: its mean takes the shift without a new weight."""
        use = self._index.only_use(node.output[0])
        if use is None:
            return None
        norm = self.analysis.model.graph.node[use[0]]
        plain = norm.op_type == "BatchNormalization" and not Attributes(norm).integer("training_mode", 0)
        return use[0] if plain and norm.input[MEAN] in self._constants.names else None

    def _fold_after(self, consumer: Consumer, node: NodeProto, shift: Floats) -> None:
        """MatMul has no bias of its own; the Add behind it is one."""
        use = self._index.only_use(node.output[0])
        follower = None if use is None else self.analysis.model.graph.node[use[0]]
        if use is None or follower is None or follower.op_type != "Add" or consumer.data_input != 0:
            self.left.append((consumer.name, "no Add with a constant follows it"))
            return
        other = 1 - use[1]
        self._add(consumer, (use[0], other), follower.input[other], shift)

    def _add(self, consumer: Consumer, use: tuple[int, int], name: str, shift: Floats) -> None:
        if name not in self._constants.names:
            self.left.append((consumer.name, f"its bias '{name}' is computed at run time"))
            return
        steps = self._steps_behind(name, use)
        if steps is not None:
            self._add(consumer, steps[0], steps[1], shift / steps[2])
            return
        old = self.tensors.get(name)
        if use in self.inputs:
            old = self.inputs[use].array
        elif old is None:
            old = self._constants.value(name)
        size = old.shape[-1] if old.ndim else 0
        if size != shift.size or old.size != size:
            self.left.append((consumer.name, f"its bias '{name}' is not one number per output"))
            return
        new = old.astype(np.float64) + shift
        new = np.rint(new).astype(old.dtype) if old.dtype.kind == "i" else without_new_subnormal(new, old)
        axes = self.analysis.graph.uses.get(name, {}).get(use, self.analysis.graph.axes[name])
        if name in self._constants.stored and self._index.only_use(name) == use:
            self.tensors[name] = new
        else:
            self.inputs[use] = NewInput(new, axes, name)
        self.folded.append(consumer.name)


def stored_bias(node: NodeProto, constants: Constants, size: int) -> Floats | None:
    """Return what a linear op adds to its outputs, (O,): zeros without a bias, None where it is no constant vector.

    Args:
        node: The op, with weights in float.
        constants: The model's constants.
        size: Its outputs O.
    """
    bias = facts_of(node).bias
    if bias is None or len(node.input) <= bias.position or not node.input[bias.position]:
        return np.zeros(size)
    name, beta = node.input[bias.position], Attributes(node).real("beta", 1.0)
    if name not in constants.names or not beta:
        return None
    numbers = constants.value(name).astype(np.float64)
    if numbers.size not in {1, size} or numbers.shape[-1:] != (numbers.size,):
        return None
    return np.broadcast_to(beta * numbers.ravel(), (size,)).copy()


def new_biases(analysis: Analysis, consumers: Sequence[Consumer]) -> Mapping[Use, NewInput]:
    """Return all biases that would be added to the file if each of these ops got a shift, as they are without one."""
    editor = BiasEditor.of(analysis, Edits())
    for consumer in consumers:
        node = analysis.model.graph.node[consumer.node]
        layout = facts_of(node).layout
        if consumer.constant and layout is not None:
            axes = analysis.graph.axes[node.output[0]]
            out = axes[output_axis(len(axes), matrix=layout == "matrix")]
            editor.fold(consumer, np.zeros(out.size))
    return editor.inputs
