"""Prunability of single weights (Kuhn et al., arXiv 2103.06002): how few of them are enough.

    P(w; phi, beta) = min {alpha : L(phi(w, alpha)) <= (1 + beta) L(w)}

phi keeps a share alpha of the weights of all layers together, those of the largest magnitude or sensitivity, or at
random, and sets the others to zero: in one shot from the original, so that masks are nested. Nothing is fitted, biases
and normalizations stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxpfp.allocation.prunability import Prunability, read_curve
from onnxpfp.allocation.weight_order import kept_counts, masks
from onnxpfp.arrays import AnyFloats, Ints
from onnxpfp.channels.ops import facts_of
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import stored_tensors
from onnxpfp.progress import Count
from onnxpfp.rewrite.stored_numbers import store_numbers
from onnxpfp.runtime.external_data import numbers

__all__ = ["WeightCurve", "Weights", "weight_curves"]

SHARES = tuple(tenth / 10 for tenth in range(10, -1, -1))
"""Shares of the weights that are looked at first."""
GAP = 0.01
"""Share of the weights down to which the ends of what is good are looked for between those."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """The weights of a model's layers.

    Attributes:
        model: The model.
        names: The tensors that hold them, each once, in the order of the graph.
        arrays: Their numbers.
    """

    model: ModelProto
    names: tuple[str, ...]
    arrays: tuple[AnyFloats, ...]

    @classmethod
    def of(cls, model: ModelProto) -> Weights:
        """Find the stored float weights of convolutions and matrix products in the main graph.

        Raises:
            ModelError: There are none.
        """
        stored = stored_tensors(model.graph)
        names = dict.fromkeys(
            node.input[1] for node in model.graph.node if facts_of(node).layout is not None and len(node.input) > 1
        )
        found = [name for name in names if name in stored and _is_float(stored[name])]
        if not found:
            raise ModelError("the model stores no float weights of convolutions or matrix products")
        return cls(model, tuple(found), tuple(numbers(stored[name]) for name in found))

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(each.size for each in self.arrays)

    def masked(self, order: Ints, kept: int) -> ModelProto:
        """Return a copy of the model with zeros in the place of all weights but the first `kept` of an order."""
        model = ModelProto()
        model.CopyFrom(self.model)
        stored = stored_tensors(model.graph)
        for name, array, mask in zip(self.names, self.arrays, masks(self.arrays, order, kept), strict=True):
            store_numbers(stored[name], np.where(mask, array, np.zeros((), array.dtype)))
        return model


@dataclass(frozen=True, slots=True)
class WeightCurve:
    """The losses of a network with fewer and fewer of its weights.

    Attributes:
        shares: Shares that were kept, descending, from 1 on.
        losses: The loss at each.
        prunability: What can be read off them.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]
    prunability: Prunability


def weight_curves(
    weights: Weights,
    orders: Sequence[Ints],
    loss: Callable[[ModelProto], float],
    limit: Callable[[float], float],
    progress: Count,
) -> tuple[WeightCurve, ...]:
    """Measure the losses.

    Args:
        weights: The weights.
        orders: The positions of all weights, those first that stay longest; a curve each.
        loss: Measures that of a model.
        limit: Makes of the loss of the original the largest that counts as no harm.
        progress: Told how many losses were measured, of about how many.
    """
    most = len(orders) * (len(SHARES) + 8)
    done = 0

    def counted(order: Ints, kept: int) -> float:
        nonlocal done
        done += 1
        progress(min(done, most - 1), most)
        return loss(weights.masked(order, kept))

    return tuple(_curve(weights.count, lambda kept, order=order: counted(order, kept), limit) for order in orders)


def _curve(total: int, loss: Callable[[int], float], limit: Callable[[float], float]) -> WeightCurve:
    """Measure a coarse grid, and then between the last good share and the one that fails below it."""
    losses = {kept: loss(kept) for kept in kept_counts(total, SHARES)}
    allowed = limit(losses[total])
    for good, bad in _ends(losses, allowed):
        while good - bad > max(1.0, GAP * total):
            middle = (good + bad) // 2
            losses[middle] = losses[middle] if middle in losses else loss(middle)
            good, bad = (middle, bad) if losses[middle] <= allowed else (good, middle)
    counts = sorted(losses, reverse=True)
    shares = tuple(kept / total for kept in counts)
    measured = tuple(losses[kept] for kept in counts)
    return WeightCurve(shares, measured, read_curve(shares, measured, allowed))


def _ends(losses: dict[int, float], allowed: float) -> Sequence[tuple[int, int]]:
    """Return where good shares end: below the smallest good one, and at the first that fails."""
    counts = sorted(losses, reverse=True)
    good = [kept for kept in counts if losses[kept] <= allowed]
    below = [kept for kept in counts if kept < good[-1]]
    first = next((number for number, kept in enumerate(counts) if losses[kept] > allowed), None)
    ends = [(good[-1], below[0])] if below else []
    if first is not None and (counts[first - 1], counts[first]) not in ends:
        ends.append((counts[first - 1], counts[first]))
    return ends


def _is_float(tensor: TensorProto) -> bool:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type).kind == "f"
