"""The weights of a network while its linear ops are refitted, at their full size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import AnyArray, Floats, Keep
from onnxpfp.channels.branch_graph import one_of_each
from onnxpfp.linear.bias import BiasEditor
from onnxpfp.linear.layout import as_stored
from onnxpfp.linear.weights import stored_form
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.layers import RefitLayer, kept_parts, kept_weights, with_weights
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.recurrent_layers import RecurrentLayer, RecurrentWeights
from onnxpfp.rewrite.edits import Edits

__all__ = ["RefitState"]


@dataclass(slots=True, eq=False)
class RefitState:
    """The weights as they are by now.

    Attributes:
        problem: The network.
        keep: Whether each channel stays.
        edits: Edits made before.
        limits: The ranks that weights may have, by the op's output.
        weights: New weights of refitted ops as they are stored, at full size, by output; of quantized ones in floating
            point, with zeros for what goes.
        shifts: What is added to the outputs of refitted ops, (O,), by output.
        recurrent: New weights of refitted recurrences, at full size, by output.
    """

    problem: RefitProblem
    keep: Keep
    edits: Edits
    limits: Mapping[str, RankLimit] = field(default_factory=dict[str, RankLimit])
    weights: dict[str, AnyArray] = field(default_factory=dict[str, AnyArray])
    shifts: dict[str, Floats] = field(default_factory=dict[str, Floats])
    recurrent: dict[str, RecurrentWeights] = field(default_factory=dict[str, RecurrentWeights])

    @property
    def held(self) -> Keep:
        """What stays of the network while it is refitted: of groups that go entirely one channel, which is masked.

        So its stages are those of the original.
        """
        return one_of_each(self.problem.analysis.graph, self.keep)

    def is_left(self, layer: RefitLayer) -> bool:
        """Tell whether `start` finds something of an op."""
        if self.is_constant(layer):
            return bool(self.keep[layer.rows].any())
        kept = kept_parts(layer, self.keep)
        return kept is not None and kept.outputs.size > 0 and kept.inputs.size > 0

    @property
    def recurrences(self) -> tuple[RecurrentLayer, ...]:
        """The recurrences that are refitted: those of which the pruned network has nothing that is masked in it."""
        return tuple(
            layer
            for layer in self.problem.recurrences
            if all((self.held[ids] == self.keep[ids]).all() for ids in (layer.units, layer.channels))
        )

    def start(self, layer: RefitLayer) -> InitialWeights | None:
        """Return what of an op's weights and bias stays; None where its groups keep unequal parts, or no outputs.

        Of an op that reads nothing but what goes the bias is left, which one group without columns has.
        """
        weights = kept_weights(layer, layer.taps(), self.keep)
        if self.is_constant(layer):
            outputs = int(self.keep[layer.rows].sum())
            return self._initial(layer, np.zeros((1, outputs, 0))) if outputs else None
        if weights is None or not weights.size:
            return None
        return self._initial(layer, weights)

    def is_constant(self, layer: RefitLayer) -> bool:
        """Tell whether all goes that an op reads, so that it gives its bias."""
        return not self.keep[layer.op.channels].any()

    def _initial(self, layer: RefitLayer, weights: Floats) -> InitialWeights:
        stays = self.keep[layer.rows]
        sign = np.sign(layer.target.scale[stays]).reshape(weights.shape[:2])
        dtype = self._numbers(layer).dtype
        return InitialWeights(
            weights, layer.bias[stays].reshape(weights.shape[:2]), sign, layer.biased, layer.gain, dtype
        )

    def _numbers(self, layer: RefitLayer) -> AnyArray:
        """Return the weights of an op as they were stored; of quantized ones as they are read."""
        return self.problem.analysis.constants.value(layer.stored if layer.quantized is None else layer.consumer.weight)

    def put(self, layer: RefitLayer, weights: Floats, bias: Floats) -> None:
        """Write down new weights (g, o, n) and bias (g, o)."""
        constants, graph = self.problem.analysis.constants, self.problem.analysis.model.graph
        if self.is_constant(layer):
            self.weights[layer.output] = self._numbers(layer)
        else:
            taps = layer.taps()
            taps = taps if layer.quantized is None else np.zeros_like(taps)
            taps = with_weights(layer, taps, self.keep, weights) / layer.gain
            shape = constants.value(layer.consumer.weight).shape
            new = as_stored(taps, graph.node[layer.consumer.node]).reshape(shape)
            # In double precision the weights of a network would take twice its size.
            weight, analysis = layer.consumer.weight, self.problem.analysis
            quantized = layer.quantized is not None
            self.weights[layer.output] = new if quantized else stored_form(analysis, weight, new)
        shift = np.zeros(layer.rows.size)
        stays = self.keep[layer.rows]
        shift[stays] = bias.ravel() - layer.bias[stays]
        self.shifts[layer.output] = shift

    def all_edits(
        self, layers: Sequence[RefitLayer], recurrences: Sequence[RecurrentLayer] = (), *, placeholders: bool = False
    ) -> Edits:
        """Return the edits of the refitted ops and recurrences; with placeholders also unchanged ones of all others."""
        editor = BiasEditor.of(self.problem.analysis, self.edits)
        for layer in layers:
            shift = self.shifts.get(layer.output)
            if shift is None and not placeholders:
                continue
            constant = self.problem.analysis.constants.value
            if layer.quantized is not None:
                editor.requantize(layer.quantized, None if shift is None else self.weights[layer.output])
            if layer.biased:
                editor.fold(layer.consumer, (np.zeros(layer.rows.size) if shift is None else shift) / layer.gain)
            if layer.quantized is not None:
                continue
            # What was not refitted stays as it was, to the bit.
            editor.tensors[layer.stored] = constant(layer.stored) if shift is None else self.weights[layer.output]
        for each in recurrences:
            weights = self.recurrent.get(each.output)
            if weights is not None or placeholders:
                tensors, inputs = each.edit(each.arrays if weights is None else each.stored(weights))
                editor.tensors.update(tensors)
                editor.inputs.update(inputs)
        return editor.edits
