"""Feature statistics: channels go whose maps vary little (DFS), or are like those of another channel (SFS).

Source: Li, Ma, Xu, Liu, "Feature Statistics Guided Efficient Filter Pruning", IJCAI 2020 (arXiv 2005.12193), as
recalled: neither the formulas (`onnxpfp.score.map_statistics`) nor these steps are checked against its text.

  DFS  (diversity) lets channels with a small Mstd go: a share of every group, or those below a threshold times the
       mean of their group.
  SFS  (similarity) takes, of the two channels left that are most alike, the one with the smaller Mstd (of equal ones
       the one with the larger index), and again, until no cosine reaches tau. At once, whole clusters would go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxpfp.arrays import Bools, Floats
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.group_data import GroupData
from onnxpfp.score.map_statistics import MapStatistics, cosines, mean_std

__all__ = [
    "FeatureRemoval",
    "FeatureStatistics",
    "dropped_by_dfs",
    "dropped_by_sfs",
    "reaches",
    "removal_scores",
]

COUNTED = 1e-9
"""What a share of channels may lack of a whole number: 0.29 of 100 are 28.999999999999996."""
COSINE_ROUNDING = 1e-12
"""What a cosine may lack of tau: that of a channel with its copy is 1 up to the rounding of sums."""


def reaches(cosine: Floats, tau: float) -> Bools:
    """Tell which cosines are at least tau, up to rounding."""
    return cosine >= tau - COSINE_ROUNDING


def dropped_by_dfs(
    mstd: Floats, ratio: float | None = None, threshold: float | None = None, least: int = 1
) -> list[int]:
    """List the channels that DFS lets go, the smallest Mstd first, of equal ones the larger index first.

    Args:
        mstd: Mstd of the channels of a group, (n,).
        ratio: Share of them that goes, rounded down.
        threshold: Those go whose Mstd is less than this times the mean; where all maps are constant, none.
        least: So many stay.
    """
    order: list[int] = np.lexsort((-np.arange(mstd.size), mstd)).tolist()
    count = 0
    if ratio is not None:
        count = int(ratio * mstd.size + COUNTED)
    elif threshold is not None:
        count = int(np.count_nonzero(mstd < threshold * mstd.mean()))
    return order[: max(0, min(count, mstd.size - least))]


def dropped_by_sfs(
    cosine: Floats, mstd: Floats, tau: float, gone: Sequence[int] = (), least: int = 1
) -> list[tuple[int, int]]:
    """List the channels that SFS lets go, in their order, each with the one that it is like: (dropped, kept then).

    Args:
        cosine: Cosines of the maps of a group, (n, n).
        mstd: Their Mstd, (n,).
        tau: Least cosine of maps that are alike.
        gone: Channels that have gone before.
        least: So many stay.
    """
    alive = np.ones(mstd.size, np.bool_)
    alive[list(gone)] = False
    ones, others = np.nonzero(np.triu(reaches(cosine, tau), 1))
    # As channels only go, the most similar pair that is left is the first of these of which both are.
    order = np.lexsort((others, ones, -cosine[ones, others]))
    left = int(alive.sum())
    dropped: list[tuple[int, int]] = []
    for one, other in zip(ones[order].tolist(), others[order].tolist(), strict=True):
        if left <= least:
            break
        if alive[one] and alive[other]:
            goes, stays = (one, other) if mstd[one] < mstd[other] else (other, one)
            alive[goes] = False
            left -= 1
            dropped.append((goes, stays))
    return dropped


@dataclass(frozen=True, slots=True)
class FeatureRemoval:
    """The channels of a group that go, in their order.

    Attributes:
        by_dfs: Those that DFS takes.
        by_sfs: Those that SFS takes then, each with the channel that it is like.
        closest: Largest cosine of two channels that DFS leaves; 0 where they were not compared.
    """

    by_dfs: tuple[int, ...]
    by_sfs: tuple[tuple[int, int], ...]
    closest: float = 0.0

    @property
    def order(self) -> list[int]:
        """All of them."""
        return [*self.by_dfs, *(dropped for dropped, _ in self.by_sfs)]


def removal_scores(mstd: Floats, order: Sequence[int]) -> Floats:
    """Return scores, (n,): Mstd of those that stay, and less for those that go, the less the earlier they do.

    Args:
        mstd: Mstd of the channels, (n,).
        order: Those that go, the first one first; at least one stays.
    """
    scores = mstd.copy()
    stays = np.ones(mstd.size, np.bool_)
    stays[list(order)] = False
    if order and scores[stays].min() <= 0.0:
        # Maps that are constant stay above those that go all the same.
        positive = scores[stays & (scores > 0.0)]
        scores += positive.min() / 2 if positive.size else 1.0
    scores[list(order)] = scores[stays].min() * np.arange(1, len(order) + 1) / (len(order) + 1)
    return scores


# Without slots, for which the decorator would make another class, and leave the first among the criteria.
@dataclass(frozen=True)
class FeatureStatistics(Criterion):
    """The mean standard deviation of the maps, with what DFS and SFS let go below all others, in their order.

    Attributes:
        dfs: Share of every group that DFS lets go; None is none.
        dfs_threshold: DFS lets go what has less than this times the mean of its group; None is nothing.
        sfs: Cosine from which on SFS finds maps alike; None is never.
        maps: Those "after" the activation, as layers read them, or "before", as the layer that brings them forth puts
            them out, behind its BatchNormalization. Which of the two the paper means is not known.
        least: So many channels of a group stay.
    """

    dfs: float | None = None
    dfs_threshold: float | None = None
    sfs: float | None = None
    maps: Literal["after", "before"] = "after"
    least: int = 1

    name = "feature-statistics"
    title = "mean standard deviation of the maps (feature statistics)"
    needs = frozenset({"map-statistics"})

    @property
    def compares(self) -> bool:
        """Whether it looks at how alike maps are, which takes their Gram matrices."""
        return self.sfs is not None

    def removal(self, tensors: Sequence[MapStatistics]) -> FeatureRemoval:
        """Choose what goes of a group by itself.

        Args:
            tensors: Statistics of its maps at every tensor that has them.
        """
        mstd = mean_std(tensors)
        least = min(self.least, mstd.size)
        by_dfs = dropped_by_dfs(mstd, self.dfs, self.dfs_threshold, least)
        if self.sfs is None:
            return FeatureRemoval(tuple(by_dfs), ())
        cosine = cosines(tensors)
        left = np.delete(np.delete(cosine, by_dfs, axis=0), by_dfs, axis=1)
        by_sfs = dropped_by_sfs(cosine, mstd, self.sfs, by_dfs, least)
        return FeatureRemoval(tuple(by_dfs), tuple(by_sfs), float(np.triu(left, 1).max(initial=0.0)))

    def score(self, group: GroupData) -> Floats:
        """Rank by Mstd, and what goes by itself below."""
        tensors = group.map_statistics
        return removal_scores(mean_std(tensors), self.removal(tensors).order)
