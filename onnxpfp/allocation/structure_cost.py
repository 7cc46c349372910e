"""The cost of a network whose layers can become two of low rank, as a function of channels and ranks. Pure numpy.

A layer that has a rank r costs r times what one rank takes in the place of what it takes whole:

    cost(kept, ranks) = cost(kept) + sum over layers with a rank of (r_l unit_l(kept) - whole_l(kept))

A rank is a width of one more group. The largest one that may be asked for stands for the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.arrays import Bools, Ints

__all__ = ["StructureCost"]


@dataclass(frozen=True, slots=True, eq=False)
class StructureCost:
    """Exact cost of channels kept and ranks.

    Attributes:
        network: The network with all layers whole.
        wholes: One term for every layer: what it costs whole.
        units: Two terms for every layer: what one rank costs in the first of its ops, and in the second.
        full: The number that stands for a whole layer, (L,); ranks are below it.
    """

    network: CostModel
    wholes: CostModel
    units: CostModel
    full: Ints
    _models: dict[bytes, tuple[CostModel, CostModel]] = field(
        init=False, repr=False, default_factory=dict[bytes, tuple[CostModel, CostModel]]
    )

    @property
    def n_groups(self) -> int:
        """Groups of channels, and layers behind them."""
        return self.network.n_groups + self.full.size

    def total(self, kept: Ints) -> int:
        """Return the cost.

        Args:
            kept: Channels of every group, then ranks of the layers, (G + L,).
        """
        channels, ranks = self._parts(kept)
        wholes, units = self._at(ranks)
        return self.network.total(channels) - wholes.total(channels) + units.total(channels)

    def saved_at(self, kept: Ints, group: int, widths: Ints) -> Ints:
        """Return how much less it costs if one group has other widths, or one layer other ranks, (W,) int64.

        Args:
            kept: As in `total`.
            group: The group; from G on a layer.
            widths: Its other widths or ranks, (W,).
        """
        channels, ranks = self._parts(kept)
        layer = group - self.network.n_groups
        if layer < 0:
            wholes, units = self._at(ranks)
            saved = self.network.saved_at(channels, group, widths)
            return saved - wholes.saved_at(channels, group, widths) + units.saved_at(channels, group, widths)
        wholes, units = self.costs_of_layers(channels)
        others = np.append(ranks[layer], widths)
        costs = np.where(others < self.full[layer], others * units[layer], int(wholes[layer]))
        return costs[0] - costs[1:]

    def saves(self, kept: Ints) -> Bools:
        """Tell which layers cost less at their ranks than whole, (L,)."""
        channels, ranks = self._parts(kept)
        wholes, units = self.costs_of_layers(channels)
        return (ranks < self.full) & (ranks * units < wholes)

    def costs_of_layers(self, channels: Ints) -> tuple[Ints, Ints]:
        """Return what every layer costs whole, and what one rank of it costs, (L,) each.

        Args:
            channels: Channels kept of every group, (G,).
        """
        return self.wholes.terms_at(channels), self.units.terms_at(channels).reshape(-1, 2).sum(1)

    def _parts(self, kept: Ints) -> tuple[Ints, Ints]:
        return kept[: self.network.n_groups], kept[self.network.n_groups :]

    def _at(self, ranks: Ints) -> tuple[CostModel, CostModel]:
        """Return what the layers with a rank cost whole, and what they cost at their ranks."""
        key = ranks.tobytes()
        if key not in self._models:
            # Prices are asked for many times at the same ranks, and then at others.
            self._models.clear()
            factors = np.where(ranks < self.full, ranks, 0)
            self._models[key] = (
                replace(self.wholes, coefficients=self.wholes.coefficients * (factors > 0)),
                replace(self.units, coefficients=self.units.coefficients * np.repeat(factors, 2)),
            )
        return self._models[key]
