"""The weights of a network while its linear ops are refitted, at their full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxpfp.channels import Keep
from onnxpfp.linear.bias import BiasEditor
from onnxpfp.linear.weights import stored_form
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.layers import RefitLayer, kept_weights, with_weights
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.rewrite.edits import Edits

__all__ = ["RefitState", "operand"]

Floats = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class RefitState:
    """The weights as they are by now.

    Attributes:
        setting: The network.
        keep: Whether each channel stays.
        edits: Edits made before.
        taps: Weights of ops in canonical form, at full size, by output.
        shifts: What is added to the outputs of refitted ops, (O,), by output.
    """

    setting: RefitProblem
    keep: Keep
    edits: Edits
    taps: dict[str, Floats] = field(default_factory=dict[str, Floats])
    shifts: dict[str, Floats] = field(default_factory=dict[str, Floats])

    def start(self, task: RefitLayer) -> InitialWeights | None:
        """Return what of an op's weights and bias stays; None where its groups keep unequal parts, or nothing."""
        taps = task.gain * task.reader.taps().astype(np.float64)
        weights = kept_weights(task, taps, self.keep)
        if weights is None or not weights.size:
            return None
        self.taps[task.output] = taps
        stays = self.keep[task.rows]
        sign = np.sign(task.outlook.scale[stays]).reshape(weights.shape[:2])
        dtype = self.setting.constants.value(task.stored).dtype
        return InitialWeights(weights, task.bias[stays].reshape(weights.shape[:2]), sign, task.biased, task.gain, dtype)

    def put(self, task: RefitLayer, weights: Floats, bias: Floats) -> None:
        """Write down new weights (g, o, n) and bias (g, o)."""
        self.taps[task.output] = with_weights(task, self.taps[task.output], self.keep, weights)
        shift = np.zeros(task.rows.size)
        stays = self.keep[task.rows]
        shift[stays] = bias.ravel() - task.bias[stays]
        self.shifts[task.output] = shift

    def all_edits(self, tasks: Sequence[RefitLayer], *, placeholders: bool = False) -> Edits:
        """Return the edits of the refitted ops; with placeholders also unchanged ones of all others."""
        model, graph, constants = self.setting.model, self.setting.graph, self.setting.constants
        editor = BiasEditor.of(model, graph, constants, self.edits)
        for task in tasks:
            shift = self.shifts.get(task.output)
            if shift is None and not placeholders:
                continue
            if task.biased:
                editor.fold(task.consumer, (np.zeros(task.rows.size) if shift is None else shift) / task.gain)
            # What was not refitted stays as it was, to the bit.
            self._write(editor, task, None if shift is None else self.taps[task.output] / task.gain)
        return editor.edits

    def _write(self, editor: BiasEditor, task: RefitLayer, taps: NDArray[np.floating] | None) -> None:
        constants = self.setting.constants
        if taps is None:
            editor.tensors[task.stored] = constants.value(task.stored)
            return
        shape = constants.value(task.consumer.weight).shape
        new = operand(task, taps).reshape(shape)
        editor.tensors[task.stored] = stored_form(self.setting.model, constants, task.consumer.weight, new)


def operand(task: RefitLayer, taps: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bring canonical weights V (C, O/g, *kernel) to the layout of the op's second input."""
    reader = task.reader
    if reader.kind == "matmul":
        return taps if task.consumer.weight_axis == 0 else taps.T
    if reader.kind == "conv_transpose":
        return taps
    per_in, per_out, *kernel = len(taps) // reader.group, *taps.shape[1:]
    blocks = taps.reshape(reader.group, per_in, per_out, *kernel)
    return blocks.swapaxes(1, 2).reshape(reader.group * per_out, per_in, *kernel)
