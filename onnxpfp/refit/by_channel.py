"""The refit of an op whose Gram matrix would be too large: by channels in place of columns.

A convolution has C k columns, and their Gram matrix (C k)^2 numbers. In its place every input channel x_c of the
original is predicted from the channels x' that the pruned network feeds, at one input position:

    x_c = sum over s of M[c, s] x'_s,     V[o, s, q] = sum over c of W[o, c, q] M[c, s]

which takes C x C numbers, and mixes channels but no taps. Where the op pads with zeros a constant in the prediction
would be wrong on the border, so there M is fitted without one. The bias is the best for V in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats, Keep
from onnxpfp.linear.ops import LinearOp
from onnxpfp.low_rank.moments import InputMoments
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.layers import RefitLayer, kept_parts
from onnxpfp.refit.moments import Moments, Piece, by_group
from onnxpfp.refit.ridge import Regression, Solver, intercept

__all__ = ["ChannelRegression", "folded", "prediction", "zero_padded"]


def zero_padded(op: LinearOp) -> bool:
    """Tell whether some outputs see zeros, or fewer inputs than others."""
    window = op.attributes
    if op.kind == "conv_transpose":
        return op.kernel_size > 1
    return any(window.pads or ()) or window.auto_pad in {"SAME_UPPER", "SAME_LOWER"}


def prediction(moments: Moments, chosen: Floats, *, padded: bool) -> Regression:
    """Return the regression whose weights are M, (g, c, s): how all channels are made of those that stay.

    Args:
        moments: Columns are the channels that stay (g, s), targets all channels (g, c).
        chosen: What M is without any data: 1 where a channel that stays is itself, (g, c, s).
        padded: Whether the op pads with zeros.
    """
    return Regression.of(moments, chosen, np.zeros(chosen.shape[:2]) if padded else None)


def folded(weights: Floats, mixed: Floats, taps: int) -> Floats:
    """Fold M (g, c, s) into weights (g, o, c * taps); returns (g, o, s * taps)."""
    groups, outputs, _ = weights.shape
    apart = weights.reshape(groups, outputs, -1, taps)
    return np.einsum("gocq,gcs->gosq", apart, mixed, optimize=True).reshape(groups, outputs, -1)


@dataclass(slots=True, eq=False)
class ChannelRegression:
    """The sampled regression of one op whose channels are refitted one by one.

    Attributes:
        layer: The op.
        groups: Convolution groups that keep anything.
        weights: Of all input channels to the outputs that stay, (g, o, C/g * k).
        chosen: 1 where a channel that stays is itself, (g, C/g, s).
        moments: Columns are the channels of the pruned network, targets those of the original.
    """

    layer: RefitLayer
    groups: NDArray[np.int64]
    weights: Floats
    chosen: Floats
    moments: Moments

    @classmethod
    def of(cls, layer: RefitLayer, taps: Floats, keep: Keep) -> ChannelRegression:
        """Start to count.

        Args:
            layer: The op.
            taps: Its weights in canonical form V (C, O/g, *kernel).
            keep: Whether each channel stays.
        """
        op = layer.op
        kept = kept_parts(layer, keep)
        assert kept is not None
        per_in, per_out = len(op.channels) // op.group, taps.shape[1]
        blocks = taps.reshape(op.group, per_in, per_out, -1)
        stays = keep[layer.rows].reshape(op.group, per_out)
        weights = np.stack(
            [blocks[g][:, stays[g]].swapaxes(0, 1).reshape(int(stays[g].sum()), -1) for g in kept.groups]
        )
        chosen = np.stack([np.eye(per_in)[:, i % per_in] for i in kept.inputs])
        return cls(layer, kept.groups, weights, chosen, Moments.empty(len(kept.groups), chosen.shape[2], per_in))

    def take(self, original: NDArray[np.floating], pruned: NDArray[np.floating]) -> list[Piece]:
        """Return what counts input channels in: of the original (T, C) and of the pruned network (T, S), side by side.

        Rows that are not all finite do not count.
        """
        per_group = original.reshape(len(original), self.layer.op.group, -1)[:, self.groups]
        columns = pruned.reshape(len(pruned), len(self.groups), -1)
        if not (np.isfinite(per_group).all() and np.isfinite(columns).all()):
            return []
        u = by_group(columns)
        self.moments.count += u.count
        return [*self.moments.column_pieces(u), *self.moments.target_pieces(u, by_group(per_group))]

    @property
    def input_moments(self) -> InputMoments:
        """The covariances of the channels that the pruned network feeds; mean squares where it pads with zeros."""
        gram = self.moments.gram(centred=not zero_padded(self.layer.op))
        return InputMoments(gram, self.layer.op.kernel_size)

    def solver(self, fitted: Moments, start: InitialWeights) -> Solver:
        """Return a solver whose bias is the best on the fitted outputs."""
        op = self.layer.op
        regression = prediction(self.moments, self.chosen, padded=zero_padded(op) or not start.biased)

        def at(ridge: float) -> tuple[Floats, Floats]:
            weights = folded(self.weights, regression.at(ridge)[0], op.kernel_size)
            return weights, intercept(fitted, weights) if start.biased else start.bias

        return at
