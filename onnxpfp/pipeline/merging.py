"""Merge what goes into what stays and is alike: channel r into k with maps A_r ~ alpha A_k, by `--compensate merge`.

Every consumer takes r over, W_k += alpha W_r, with alpha = G_rk / G_kk of what it reads itself: the least squares of
one channel by another. What is left of r's mean then, E[A_r] - alpha E[A_k], goes into its bias. That is exact where
A_r = alpha A_k, so where their cosine is 1. k is the channel that stays and is most like r in the maps that all
consumers read, if their cosine reaches tau. Where none does, the mean of r goes into the bias alone. So it does where
that leaves less of r, by the variance of what this consumer reads, as of maps that are constant; and of what DFS lets
go, for such maps are nearly constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from onnxpfp.arrays import Floats, Ints, Keep
from onnxpfp.calibrate.statistics import OpStatistics, Statistics
from onnxpfp.channels import Analysis
from onnxpfp.linear.describe import op_key
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.lossless import edits_of
from onnxpfp.lossless.types import Lossless, Merge
from onnxpfp.pipeline.feature_maps import GroupMaps
from onnxpfp.refit.means import Compensation, fold_means
from onnxpfp.rewrite.edits import Edits
from onnxpfp.score.feature_statistics import reaches
from onnxpfp.score.group_data import places
from onnxpfp.score.map_statistics import MapStatistics, cosines

__all__ = ["MergeMaps", "merge_similar"]


@dataclass(frozen=True, slots=True, eq=False)
class MergeMaps:
    """What merging needs to know of a group.

    Attributes:
        maps: What its consumers read, with Gram matrices.
        by_dfs: Positions of the channels that DFS lets go.
    """

    maps: GroupMaps
    by_dfs: tuple[int, ...]

    def partners(self, stays: Keep, tau: float) -> dict[int, int]:
        """Find for every channel that goes the one that takes it over, by position; none where none is like it.

        Args:
            stays: Whether each channel of the group stays, (n,).
            tau: Least cosine of channels that are alike.
        """
        kept = np.flatnonzero(stays)
        gone = np.setdiff1d(np.flatnonzero(~stays), self.by_dfs)
        if not kept.size or not gone.size:
            return {}
        among = cosines(self.maps.statistics)[np.ix_(gone, kept)]
        nearest = among.argmax(axis=1)
        alike = reaches(among[np.arange(gone.size), nearest], tau)
        return dict(zip(gone[alike].tolist(), kept[nearest[alike]].tolist(), strict=True))


def merge_similar(
    analysis: Analysis,
    ops: tuple[LinearOp, ...],
    stored_axes: Sequence[StoredAxis | None],
    statistics: Statistics,
    groups: Sequence[MergeMaps],
    factor: Floats,
    edits: Edits,
    tau: float,
) -> Compensation:
    """Merge channels that go into similar ones that stay, in the weights of all consumers, and fold what is left.

    Args:
        analysis: The model.
        ops: Its consumers as linear ops.
        stored_axes: Where each consumer's weights are stored; None where they cannot be changed.
        statistics: The means of what they read.
        groups: The maps of every group.
        factor: Factor by channel id, (channels + 1,): 0 where a channel goes.
        edits: Edits made before, which are kept.
        tau: Least cosine of channels that are alike.
    """
    merges: dict[int, list[Merge]] = {}
    for number, group in enumerate(analysis.graph.groups):
        partners = groups[number].partners(factor[group.channels] > 0, tau)
        for position in group.consumers if partners else ():
            op, alphas = ops[position], _alphas(groups[number].maps, ops, stored_axes, group.consumers, position)
            if alphas is not None:
                where = places(op.channels, group.channels)
                merges.setdefault(position, []).extend(_merges(op, where, partners, alphas))
    merges = {position: some for position, some in merges.items() if some}
    taken = {position: tuple(some) for position, some in merges.items()}
    merged = edits_of(analysis, ops, Lossless(analysis.graph.keep_all(), taken, {}, ()), stored_axes, edits)
    left = _left(statistics, merges)
    folded = fold_means(analysis, ops, left, factor, merged)
    return replace(folded, merged=tuple(analysis.graph.consumers[position].name for position in sorted(merges)))


def _alphas(
    maps: GroupMaps,
    ops: Sequence[LinearOp],
    stored_axes: Sequence[StoredAxis | None],
    consumers: Sequence[int],
    position: int,
) -> Floats | None:
    """Return G_rk / G_kk of what a consumer reads, (n, n), or of what all do that share its weights.

    It is 0 where the mean of r alone leaves less, or as little. None where its weights cannot be changed.
    """
    stored = stored_axes[position]
    if stored is None:
        return None
    together = {(ops[other].data, ops[other].zero): ops[other] for other in consumers if stored_axes[other] == stored}
    read = reduce(MapStatistics.merge, [maps.at(op) for op in together.values()])
    squares, means = read.gram.diagonal(), read.mean
    alphas = np.divide(read.gram, squares, out=np.zeros_like(read.gram), where=squares > 0.0)
    # What merging and folding take of the sum of squares of r, and what folding alone takes of it.
    both = alphas * read.gram + read.entries * np.square(means[:, None] - alphas * means)
    return np.where(both > read.entries * np.square(means)[:, None], alphas, 0.0)


def _merges(op: LinearOp, where: Ints, partners: Mapping[int, int], alphas: Floats) -> Iterator[Merge]:
    """Yield the merges along a consumer's contracted axis; of other convolution groups it has no outputs in common."""
    per_group = len(op.channels) // op.group
    for dropped, kept in partners.items():
        blocks = where[[dropped, kept]] // per_group
        if np.array_equal(blocks[0], blocks[1]) and alphas[dropped, kept]:
            pairs = zip(where[dropped].tolist(), where[kept].tolist(), strict=True)
            yield from ((one, other, float(alphas[dropped, kept])) for one, other in pairs)


def _left(statistics: Statistics, merges: Mapping[int, Sequence[Merge]]) -> Statistics:
    """Return the means of what goes less what was merged of them."""
    left: dict[str, OpStatistics] = dict(statistics)
    for position, some in merges.items():
        own = statistics[op_key(position)]
        sums = own.patch_sum.copy()
        for dropped, kept, alpha in some:
            sums[dropped] -= alpha * own.patch_sum[kept]
        left[op_key(position)] = replace(own, patch_sum=sums)
    return left
