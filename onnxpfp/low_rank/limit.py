"""A limit of the rank of weights, and what keeps to it. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.arrays import Floats
from onnxpfp.low_rank.factor import Factors, nearest_factors
from onnxpfp.low_rank.moments import InputMoments
from onnxpfp.low_rank.ranks import Choice

__all__ = ["RankLimit"]


@dataclass(frozen=True, slots=True)
class RankLimit:
    """The rank that an op's weights may have.

    Attributes:
        kernel: Spatial shape of its kernel; empty for a matrix product.
        choice: The scheme and the rank.
    """

    kernel: tuple[int, ...]
    choice: Choice

    def limited(self, weights: Floats, moments: InputMoments | None) -> Floats:
        """Return the nearest weights that keep to it, by what they do to what the op reads.

        Args:
            weights: (g, o, c k), channels first.
            moments: Of what it reads; None compares the weights themselves.
        """
        return self.factors(weights, moments).product().reshape(weights.shape)

    def first(self, weights: Floats, moments: InputMoments) -> Floats:
        """Return the first of both ops, F (g, r, c a); arguments as those of `limited`."""
        first = self.factors(weights, moments).first
        return first.reshape(*first.shape[:2], -1)

    def factors(self, weights: Floats, moments: InputMoments | None) -> Factors:
        """Return both ops; arguments as those of `limited`."""
        groups, outputs, _ = weights.shape
        bank = weights.reshape(groups, outputs, -1, *self.kernel)
        return nearest_factors(bank, self.choice.cut, self.choice.rank, moments)
