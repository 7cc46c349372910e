"""A linear op before its refit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.model.subnormal import without_new_subnormal

__all__ = ["InitialWeights"]


@dataclass(frozen=True, slots=True, eq=False)
class InitialWeights:
    """The weights and bias of a linear op that stay, and how they are stored.

    Attributes:
        weights: What the ridge pulls towards, (g, o, n).
        bias: What is added, (g, o).
        sign: 1 where a ReLU behind passes outputs above their threshold, -1 where below, 0 where the output reaches
            nothing, (g, o).
        biased: Whether the bias can change.
        gain: What the stored weights are multiplied by.
        dtype: Of the stored weights.
    """

    weights: Floats
    bias: Floats
    sign: Floats
    biased: bool
    gain: float
    dtype: np.dtype[Any]

    def stored(self, weights: Floats) -> Floats:
        """Return weights as they are after they were stored: rounded, none subnormal, infinite out of the range."""
        rounded = without_new_subnormal(weights / self.gain, np.zeros((), self.dtype))
        return rounded.astype(np.float64) * self.gain

    def holds(self, bias: Floats) -> bool:
        """Whether a bias is in the range of the type."""
        with np.errstate(over="ignore"):
            return bool(np.isfinite(bias.astype(self.dtype).astype(np.float64)).all())
