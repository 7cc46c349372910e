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

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import chunks

__all__ = ["fpgm", "l1_norms", "l2_norms", "lamp", "long_rows", "places"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


def places(axis: Ids, channels: Ids) -> NDArray[np.int64]:
    """Return where the channels of a group lie on an axis, (n, m): all of them equally often.

    Args:
        axis: Channel id of every index of the axis.
        channels: Channel ids of the group, ascending, (n,).
    """
    where = np.flatnonzero(np.isin(axis, channels))
    return where[np.argsort(axis[where], kind="stable")].reshape(channels.size, -1)


def long_rows(weights: NDArray[np.floating], picked: Ids, scale: Floats | None = None) -> Iterator[Floats]:
    """Yield the weights of channels as one long row each, some numbers at a time, (n, d).

    Args:
        weights: Weights by index, (O, ...).
        picked: Indices of each channel, (n, m).
        scale: What the weights of each index are multiplied by, (O,).
    """
    weights = weights.reshape(len(weights), -1) if weights.ndim < 2 else weights
    for run in chunks(weights.shape[1], 8 * picked.size * weights[0].size // max(1, weights.shape[1])):
        part = weights[:, run][picked].astype(np.float64)
        part = part.reshape(*picked.shape, -1)
        if scale is not None:
            part *= scale[picked][..., None]
        yield part.reshape(len(picked), -1)


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
