"""The cost of a network whose layers can become two of low rank, as a function of channels and ranks. Pure numpy.

A layer that has a rank costs what the two ops take in its place, or what it costs whole where that is less, for a rank
that saves nothing leaves its layer whole:

    cost(kept, ranks) = cost(kept) - sum over layers with a rank of max(0, whole_l(kept) - pair_l(kept, r_l))

What a pair costs is a sum of terms, of which some have the rank as a factor. Kernels that compute channels in blocks
count it as whole blocks. A rank is a width of one more group. The largest one that may be asked for stands for the
whole layer. A smaller rank or fewer channels never cost more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxpfp.allocation.cost import CostModel
from onnxpfp.arrays import Bools, Ints

__all__ = ["LayerTerms", "StructureCost"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerTerms:
    """What each of some layers costs, as a sum of terms.

    Attributes:
        model: The terms, without ranks.
        layer: The layer of each term, (T,), ascending.
        block: Multiple to which the rank is rounded up that a term has as a factor, (T,); 0 where it has none.
    """

    model: CostModel
    layer: Ints
    block: Ints

    def over(self, costs: Ints, ranks: Ints, layers: int) -> Ints:
        """Add up what every layer costs, (layers, W).

        Args:
            costs: Every term without its rank, (T, W) or (T, 1).
            ranks: Ranks of all layers, (layers, W) or (layers, 1).
            layers: How many layers there are.
        """
        block = np.maximum(self.block, 1)[:, None]
        factors = np.where(self.block[:, None] > 0, -(-ranks[self.layer] // block) * block, 1)
        terms = costs * factors
        sums = np.zeros((layers, terms.shape[1]), np.int64)
        np.add.at(sums, self.layer, terms)
        return sums

    def of_layers(self, layers: Ints) -> LayerTerms:
        """Return the terms of some layers, ascending; these are numbered anew."""
        numbers = np.flatnonzero(np.isin(self.layer, layers))
        return LayerTerms(self.model.only(numbers), np.searchsorted(layers, self.layer[numbers]), self.block[numbers])


@dataclass(frozen=True, slots=True, eq=False)
class StructureCost:
    """Exact cost of channels kept and ranks.

    Attributes:
        network: The network with all layers whole.
        wholes: What every layer costs whole.
        pairs: What it costs at its rank.
        full: The number that stands for a whole layer, (L,); ranks are below it.
    """

    network: CostModel
    wholes: LayerTerms
    pairs: LayerTerms
    full: Ints
    _touched: dict[int, tuple[Ints, LayerTerms, LayerTerms]] = field(
        init=False, repr=False, default_factory=dict[int, tuple[Ints, LayerTerms, LayerTerms]]
    )

    @property
    def n_groups(self) -> int:
        """Groups of channels, and layers behind them."""
        return self.network.n_groups + self.full.size

    @property
    def counts(self) -> str:
        """What it counts, as people call it."""
        return self.network.counts

    def total(self, kept: Ints) -> int:
        """Return the cost.

        Args:
            kept: Channels of every group, then ranks of the layers, (G + L,).
        """
        channels, ranks = self._parts(kept)
        saved = np.maximum(self._wholes(channels) - self._pairs(channels, ranks), 0)
        return self.network.total(channels) - int(saved[ranks < self.full].sum())

    def saved_at(self, kept: Ints, group: int, widths: Ints) -> Ints:
        """Return how much less it costs if one group has other widths, or one layer other ranks, (W,) int64.

        Args:
            kept: As in `total`.
            group: The group; from G on a layer.
            widths: Its other widths or ranks, (W,).
        """
        channels, ranks = self._parts(kept)
        layer = group - self.network.n_groups
        if layer >= 0:
            return self._saved_by_ranks(channels, ranks, layer, widths)
        saved = self.network.saved_at(channels, group, widths)
        layers, wholes, pairs = self._touched_by(group)
        ranked = ranks[layers] < self.full[layers]
        if not ranked.any():
            return saved
        every = np.append(channels[group], widths)
        whole, pair = (
            each.over(each.model.terms_over(channels, group, every), ranks[layers, None], layers.size)
            for each in (wholes, pairs)
        )
        by_ranks = np.maximum(whole - pair, 0)[ranked].sum(0)
        return saved - by_ranks[0] + by_ranks[1:]

    def saves(self, kept: Ints) -> Bools:
        """Tell which layers cost less at their ranks than whole, (L,)."""
        channels, ranks = self._parts(kept)
        return (ranks < self.full) & (self._pairs(channels, ranks) < self._wholes(channels))

    def _parts(self, kept: Ints) -> tuple[Ints, Ints]:
        return kept[: self.network.n_groups], kept[self.network.n_groups :]

    def _wholes(self, channels: Ints) -> Ints:
        return self._sums(self.wholes, channels, self.full)

    def _pairs(self, channels: Ints, ranks: Ints) -> Ints:
        return self._sums(self.pairs, channels, ranks)

    def _sums(self, terms: LayerTerms, channels: Ints, ranks: Ints) -> Ints:
        costs = terms.model.terms_at(channels)[:, None]
        return terms.over(costs, ranks[:, None], self.full.size)[:, 0]

    def _saved_by_ranks(self, channels: Ints, ranks: Ints, layer: int, others: Ints) -> Ints:
        """Return how much less it costs if a layer has other ranks, (W,)."""
        _, wholes, pairs = self._touched_by(self.network.n_groups + layer)
        every = np.append(ranks[layer], others)
        whole, pair = (each.over(each.model.terms_at(channels)[:, None], every[None], 1)[0] for each in (wholes, pairs))
        saved = np.where(every < self.full[layer], np.maximum(whole - pair, 0), 0)
        return saved[1:] - saved[0]

    def _touched_by(self, group: int) -> tuple[Ints, LayerTerms, LayerTerms]:
        """Return the layers whose costs change with a width or a rank, and their terms; they are looked for once."""
        if group not in self._touched:
            layers = np.array([group - self.network.n_groups])
            if layers[0] < 0:
                touched = [each.layer[each.model.of_group(group)] for each in (self.wholes, self.pairs)]
                layers = np.unique(np.concatenate(touched))
            self._touched[group] = layers, self.wholes.of_layers(layers), self.pairs.of_layers(layers)
        return self._touched[group]
