"""The weights of a layer as SiPP sees them, and what became of them.

Every output i of a layer has two sub-problems, its weights above zero and those below ("parts" here): the sums of both
are approximated apart, so that in each all products of one sign of inputs add up without cancelling. s are the
sensitivities of the weights (`onnxpfp.calibrate.sensitivity.weight_screening`), S_i^{+-} their sum over a part.

Source: Baykal, Liebenwein, Gilitschenski, Feldman, Rus, "Sensitivity-Informed Provable Pruning of Neural Networks"
(arXiv 1910.05422; SIAM J. Math. Data Sci. 4(1), 2022). Its text could not be read: formulas are those of the authors'
code (lucaslie/torchprune 14b392c), and what is said to hold is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxpfp.arrays import Bools, Floats, Floats32, Ints

__all__ = ["LayerChoice", "LayerWeights", "Parts", "log_term"]

TINY = 2.0**-23
"""Sums of sensitivities up to this are none, as in the authors' code."""


def log_term(positions: int, taps: int, delta: float) -> float:
    """Return ln(8 (P + 1) k / delta), the authors' logarithm of a part.

    It is at least that of a union over the P positions, both signs of inputs and both directions of an error, ln(4 P /
    delta).

    Args:
        positions: P, the output positions of one input.
        taps: k, the taps of the kernel.
        delta: Probability that the bound of a part may fail over the draws.
    """
    return math.log(8.0 * (positions + 1) * taps) - math.log(delta)


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """The weights of one layer, in any order.

    Attributes:
        weights: (n,).
        shares: Their sensitivities s in [0, 1], (n,).
        outputs: The output that each belongs to, (n,) from 0 on.
        count: Number of outputs.
        log_term: `log_term` of its parts.
    """

    weights: Floats32
    shares: Floats32
    outputs: Ints
    count: int
    log_term: float

    @property
    def parts(self) -> Ints:
        """The part of every weight, (n,): 2 i for those above zero, 2 i + 1 for the others."""
        return 2 * self.outputs + (self.weights < 0)

    @property
    def nonzero(self) -> int:
        """Weights that are not zero."""
        return int(np.count_nonzero(self.weights))


@dataclass(frozen=True, slots=True, eq=False)
class LayerChoice:
    """What becomes of the weights of one layer.

    Attributes:
        factors: What each is multiplied by, (n,): 0 of those that go, 1 of those that stay as they are.
        bounds: Bound on the relative error of every part, (2 x outputs,). Of parts that are drawn it may fail with the
            probability that went into it.
        drawn: Which parts are drawn, (2 x outputs,).
    """

    factors: Floats
    bounds: Floats
    drawn: Bools

    @property
    def kept(self) -> int:
        """Weights that stay."""
        return int(np.count_nonzero(self.factors))


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of all layers, one after the other.

    Attributes:
        totals: S, the sum of the sensitivities, (parts,).
        counts: Weights with a sensitivity above zero, (parts,).
        log_terms: ln(8 (P + 1) k / delta), (parts,).
        weights: What the error of a part counts, 1 / outputs of its layer, (parts,).
    """

    totals: Floats
    counts: Ints
    log_terms: Floats
    weights: Floats

    @classmethod
    def of(cls, layers: Sequence[LayerWeights]) -> Self:
        """Add up the sensitivities of layers."""
        sizes = [2 * layer.count for layer in layers]
        fires = [(layer.shares > 0) & (layer.weights != 0) for layer in layers]
        pairs = list(zip(layers, sizes, fires, strict=True))
        totals = [np.bincount(layer.parts, layer.shares * there, minlength=size) for layer, size, there in pairs]
        counts = [np.bincount(layer.parts, there, minlength=size).astype(np.int64) for layer, size, there in pairs]
        return cls(
            np.concatenate([*totals, np.zeros(0)]).astype(np.float64),
            np.concatenate([*counts, np.zeros(0, np.int64)]),
            np.repeat([layer.log_term for layer in layers], sizes).astype(np.float64),
            np.repeat([1 / max(1, layer.count) for layer in layers], sizes).astype(np.float64),
        )

    @property
    def live(self) -> Bools:
        """Which parts have a sum of sensitivities, (parts,)."""
        return self.totals > TINY
