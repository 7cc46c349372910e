"""Second moments of what a consumer gives, and the error that a choice of channels makes there as a share of them.

With the weights V and the inputs u at an output position p, channel c adds y_ip,c to the sum z_ip of output i:

    z_ip = sum over c of y_ip,c      y_ip,c = sum over the taps q of  V_ciq u_cqp      s_i^2 = E z_ip^2

E is over the positions of samples. Where channels go, the error of z_ip is the sum of their y_ip,c; where those that
stay are multiplied by f_c, it is that of d_c y_ip,c, d_c = 1 - f_c, and d_c = 1 for those that go. For an input x,

    L(x) = sum over i of mean over p of min(s_i^2, (sum over c of d_c y_ip,c)^2)  /  sum over i of s_i^2    in [0, 1]

is one number, so E L(x) has the bounds of a mean of independent numbers in [0, 1], by samples that neither the choice
nor the s_i have seen (`onnxpfp.pipeline.choice_bounds`; theorem and proof in docs/bounds.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxpfp.arrays import AnyFloats, Bools, Floats, chunks

__all__ = ["OutputMoments", "OutputSquares", "errors"]


@dataclass(frozen=True, slots=True, eq=False)
class OutputSquares:
    """Sums of what a consumer gives, squared, over the output positions of some samples.

    Attributes:
        outputs: Sum of z_i^2, (g, O/g) float64.
        count: How many positions.
    """

    outputs: Floats
    count: int

    @classmethod
    def of(cls, columns: AnyFloats, taps: AnyFloats, group: int = 1) -> Self:
        """Measure some positions.

        Args:
            columns: Unfolded inputs, u (R, C, k).
            taps: Weights of the consumer, V (C, O/g, *kernel) with k taps.
            group: Number of convolution groups g; channels of different ones share no output.
        """
        return cls(_squares(columns, taps, group), len(columns))

    def merge(self, other: Self) -> Self:
        """Combine with the squares at other positions."""
        return type(self)(self.outputs + other.outputs, self.count + other.count)

    @property
    def mean_squares(self) -> Floats:
        """Mean square s_i^2 of every output, (g, O/g)."""
        return self.outputs / max(1, self.count)


@dataclass(frozen=True, slots=True, eq=False)
class OutputMoments:
    """Sums over the output positions of some samples: of products of what a consumer reads, and of its squared sums.

    Attributes:
        inputs: Sum of u_cq u_cr of the taps q, r of every index, (C, k, k) float64.
        outputs: Sum of z_i^2, (g, O/g) float64.
        count: How many positions.
    """

    inputs: Floats
    outputs: Floats
    count: int

    @classmethod
    def of(cls, columns: AnyFloats, taps: AnyFloats, group: int = 1) -> Self:
        """Measure some positions, as `OutputSquares.of`."""
        by_index = columns.transpose(1, 2, 0).astype(np.float64)
        return cls(by_index @ by_index.swapaxes(1, 2), _squares(columns, taps, group), len(columns))

    def merge(self, other: Self) -> Self:
        """Combine with the moments at other positions."""
        return type(self)(self.inputs + other.inputs, self.outputs + other.outputs, self.count + other.count)

    def shares(self, taps: AnyFloats) -> Floats:
        """Return the mean share h of every index, (C,); zeros where nothing comes out.

        Args:
            taps: Weights of the consumer, V (C, O/g, *kernel).
        """
        channels, size = len(self.inputs), self.inputs.shape[1]
        outputs, total = self.outputs.shape[1], float(self.outputs.sum())
        shares = np.zeros(channels)
        for run in chunks(channels, 16 * outputs * size):
            weights = taps[run].reshape(-1, outputs, size).astype(np.float64)
            shares[run] = np.einsum("coq,coq->c", weights @ self.inputs[run], weights)
        return shares / total if total > 0.0 else np.zeros(channels)


def errors(columns: AnyFloats, taps: AnyFloats, lost: Floats | Bools, mean_squares: Floats) -> Floats:
    """Return the error L of every sample where some channels go, (N,) in [0, 1]; 1 where all outputs were always 0.

    Args:
        columns: Unfolded inputs of every sample, u (N, P, C, k).
        taps: Weights of the consumer, V (C, O/g, *kernel).
        lost: What of every index is lost, d (C,): 1 of those that go, 1 - f of those that are multiplied by f.
        mean_squares: s_i^2, (g, O/g).
    """
    samples, positions = len(columns), columns.shape[1]
    gone = (lost[:, None] * columns).reshape(samples * positions, *columns.shape[2:])
    total, start = np.zeros(samples), 0
    for z in _sums(gone, taps, len(mean_squares)):
        most = mean_squares[:, None, start : start + z.shape[2]]
        start += z.shape[2]
        counted = np.minimum(np.square(z), most)
        total += counted.reshape(len(z), samples, positions, -1).sum((0, 2, 3))
    whole = positions * float(mean_squares.sum())
    # Rounding can lift a sum of numbers that are all at their most above the sum of these.
    return np.minimum(total / whole, 1.0) if whole > 0.0 else np.ones(samples)


def _squares(columns: AnyFloats, taps: AnyFloats, group: int) -> Floats:
    """Return the sum of z_i^2, (g, O/g), of columns (R, C, k): of z in single precision where that holds them."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = [np.square(z, dtype=np.float64).sum(1) for z in _sums(columns, taps, group, np.float32)]
    if all(np.isfinite(each).all() for each in single):
        return np.concatenate(single, axis=1)
    return np.concatenate([np.square(z).sum(1) for z in _sums(columns, taps, group)], axis=1)


def _sums(
    columns: AnyFloats, taps: AnyFloats, group: int, dtype: type[np.floating] = np.float64
) -> Iterator[AnyFloats]:
    """Yield z (g, R, o), some outputs at a time, of columns (R, C, k); squares do not leave float64."""
    channels, size = columns.shape[1:]
    rows = columns.reshape(len(columns), group, -1).swapaxes(0, 1).astype(dtype)
    flat = taps.reshape(group, channels // group, taps.shape[1], size)
    for run in chunks(taps.shape[1], 16 * channels * size):
        weights = flat[:, :, run].swapaxes(2, 3).astype(dtype)
        yield rows @ weights.reshape(group, -1, weights.shape[3])
