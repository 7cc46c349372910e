"""Baselines that look at weights alone: norms of filters, and distances between them.

A channel is one *long row*: the filters of all producers that bring it forth, one behind the other (a channel of a
residual stream has several). So the baselines, which their papers define for the filters F_j of one layer, are defined
for coupled groups too. All of them add up over the numbers of the row, so they take it in pieces (n, d), which lets
weights stay in files.

  l1    sum |F_j|                           Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017
  l2    ||F_j||_2                           Fang et al., "DepGraph", CVPR 2023: with the consumers' columns in the row
  fpgm  sum_k ||F_j - F_k||_2               He et al., "Filter Pruning via Geometric Median", CVPR 2019
  lamp  ||F_u||^2 / sum_{v >= u} ||F_v||^2  Lee et al., "Layer-adaptive Sparsity for Magnitude-based Pruning",
                                            ICLR 2021, of filters in place of weights; u in ascending order
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData

__all__ = ["L1", "L2", "BnScale", "Fpgm", "Lamp", "Random", "fpgm", "l1_norms", "l2_norms", "lamp", "mean_scale"]


def _squares(part: Floats) -> Floats:
    return np.einsum("nd,nd->n", part, part)


def l1_norms(rows: Iterable[Floats]) -> Floats:
    """Return the sum of the absolute weights of every channel, (n,); `rows` are pieces (n, d)."""
    return np.sum([np.abs(part).sum(axis=1) for part in rows], axis=0)


def l2_norms(rows: Iterable[Floats]) -> Floats:
    """Return the Euclidean norm of the weights of every channel, (n,); `rows` are pieces (n, d)."""
    return np.sqrt(np.sum([_squares(part) for part in rows], axis=0))


def fpgm(rows: Iterable[Floats]) -> Floats:
    """Return the sum of the distances to all other channels, (n,); `rows` are pieces (n, d).

    What lies near the geometric median of all can be replaced by the others.
    """
    gram = np.sum([part @ part.T for part in rows], axis=0)
    squares = np.diag(gram)
    distances = squares[:, None] + squares[None, :] - 2.0 * gram
    # By rounding, equal filters may be a little apart, or even less than nothing.
    np.fill_diagonal(distances, 0.0)
    return np.sqrt(np.maximum(distances, 0.0)).sum(axis=1)


def lamp(rows: Iterable[Floats]) -> Floats:
    """Return the share of every channel in the squared norm of all that are no smaller, (n,).

    The largest channel of every group has 1, so scores of different groups compare, and none loses all its channels.
    Of equal channels the first counts as the smaller one.

    Args:
        rows: Pieces (n, d).
    """
    squares = np.sum([_squares(part) for part in rows], axis=0)
    order = np.argsort(squares, kind="stable")
    ascending = squares[order]
    rest = np.cumsum(ascending[::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(ascending, rest, out=np.zeros_like(rest), where=rest > 0.0)
    return scores


def mean_scale(count: int, scales: Sequence[Floats]) -> Floats:
    """Return the mean of |gamma| over all BatchNormalizations of a group, (n,); NaN where there is none.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. There training
    drives gamma towards zero; without that, the score says little.

    Args:
        count: Channels of the group, n.
        scales: gamma at the indices of each channel, (n, m), per normalization.
    """
    if not scales:
        return np.full(count, np.nan)
    return np.abs(np.concatenate(scales, axis=1)).mean(axis=1)


class _OfRows(Criterion):
    """A criterion of the channels' long rows: of the producers' filters, and maybe of the consumers' columns."""

    needs = frozenset({"weights"})

    @abstractmethod
    def of_rows(self, rows: Iterable[Floats]) -> Floats:
        """Score pieces (n, d) of the long rows, (n,)."""

    def rows(self, group: GroupData) -> Iterator[Floats]:
        """Yield the pieces that count."""
        return group.rows()

    def score(self, group: GroupData) -> Floats:
        """Score the rows; where there are none (quantized weights bring the channels forth, say), all are alike."""
        return self.of_rows(self.rows(group)) if self.has_rows(group) else np.ones(group.size)

    def has_rows(self, group: GroupData) -> bool:
        """Tell whether there are any."""
        return bool(group.filters)


class L1(_OfRows):
    """The sum of the absolute weights of the filters."""

    name, title = "l1", "l1 norm of the filters"

    def of_rows(self, rows: Iterable[Floats]) -> Floats:
        """Return the l1 norms."""
        return l1_norms(rows)


class L2(_OfRows):
    """The Euclidean norm of the filters and of the consumers' columns."""

    name, title = "l2", "l2 norm of the filters and of the consumers' weights"

    def has_rows(self, group: GroupData) -> bool:
        """Tell whether there are filters or columns."""
        return bool(group.filters) or any(consumer.weight is not None for consumer in group.consumers)

    def rows(self, group: GroupData) -> Iterator[Floats]:
        """Yield the filters, then the columns."""
        yield from group.rows()
        yield from group.columns()

    def of_rows(self, rows: Iterable[Floats]) -> Floats:
        """Return the l2 norms."""
        return l2_norms(rows)


class Fpgm(_OfRows):
    """The distance of the filters to all others of the group."""

    name, title = "fpgm", "distance to the geometric median of the filters (FPGM)"

    def of_rows(self, rows: Iterable[Floats]) -> Floats:
        """Return the sums of distances."""
        return fpgm(rows)


class Lamp(_OfRows):
    """The share in the squared norm of all filters that are no smaller."""

    name, title = "lamp", "layer-adaptive magnitude of the filters (LAMP)"
    comparable = True

    def of_rows(self, rows: Iterable[Floats]) -> Floats:
        """Return the shares."""
        return lamp(rows)


class BnScale(Criterion):
    """The mean magnitude of the scales of the BatchNormalizations; NaN where there is none."""

    name, title = "bn-scale", "scale of the BatchNormalizations (Network Slimming)"
    needs = frozenset({"scales"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Return the mean scales."""
        return mean_scale(group.size, group.scales)


class Random(Criterion):
    """Chance, decided by the seed."""

    name, title = "random", "chance"
    needs = frozenset({"random"})
    comparable = True

    def score(self, group: GroupData) -> Floats:
        """Return the random numbers."""
        assert group.random is not None
        return group.random
