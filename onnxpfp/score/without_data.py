"""Scores without data: the reach of a channel by its producers' weights, times its consumers' slices.

The reach of filter j is phi(beta ||[F_j; b_j]||) with BatchNormalization folded into the filter for
scoring only (Mussay et al., ICLR 2020; algorithms.md section 3). Shares instead of absolute numbers
make groups comparable (`coreset_scores`, case 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import chunks
from onnxpfp.score.coreset import coreset_scores

__all__ = ["Filters", "Reads", "scores_without_data"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]


class Filters(Protocol):
    """What brings forth channels: ids, norms and biases of filters."""

    @property
    def ids(self) -> Ids:
        """Channel id of every filter, (O,)."""
        ...

    @property
    def squares(self) -> Floats:
        """Squared norm of every filter, (O,)."""
        ...

    @property
    def bias(self) -> Floats:
        """Biases, (O,)."""
        ...


class Reads(Protocol):
    """What contracts channels."""

    @property
    def channels(self) -> Ids:
        """Channel id of every index of the contracted axis, (C,)."""
        ...

    @property
    def weight(self) -> object | None:
        """The weight, or None where both operands are activations."""
        ...

    def taps(self) -> NDArray[np.floating]:
        """The weight in its canonical form (C, O/g, *kernel)."""
        ...


def _reach_of(channels: Ids, producers: Sequence[Filters]) -> tuple[list[Floats], list[Floats]]:
    """Pick each producer's filters of a group; a channel of several filters is one long row."""
    rows: list[Floats] = []
    biases: list[Floats] = []
    for producer in producers:
        where = np.flatnonzero(np.isin(producer.ids, channels))
        if not where.size:
            continue
        order = np.searchsorted(channels, producer.ids[where])
        norm, bias = np.zeros(channels.size), np.zeros(channels.size)
        np.add.at(norm, order, producer.squares[where])
        np.add.at(bias, order, np.square(producer.bias[where]))
        rows.append(np.sqrt(norm)[:, None])
        biases.append(np.sqrt(bias))
    return rows, biases


def _slices(channels: Ids, reads: Reads) -> Iterator[Floats]:
    """Yield a consumer's absolute weights per channel of the group, some outputs at a time, (O, n, k)."""
    taps = reads.taps()
    where = np.flatnonzero(np.isin(reads.channels, channels))
    order = np.searchsorted(channels, reads.channels[where])
    outputs = taps.shape[1]
    for run in chunks(outputs, 8 * taps.size // outputs):
        part = np.abs(taps[:, run].astype(np.float64, order="C"))
        part = part.reshape(*part.shape[:2], -1)
        out = np.zeros((channels.size, *part.shape[1:]))
        for index, place in zip(where, order, strict=True):
            out[place] += part[index]
        yield np.ascontiguousarray(out.swapaxes(0, 1))


def scores_without_data(
    count: int,
    groups: Sequence[tuple[Ids, Sequence[Reads]]],
    producers: Sequence[Filters],
) -> Floats:
    """Score every channel by weights alone.

    A group without known filters (its channels come from an activation alone) counts every channel
    as reaching equally far; one without known consumers as read equally.

    Args:
        count: Number of channels.
        groups: Channel ids and consumers of every group.
        producers: The filters of all groups.

    Returns:
        Score by channel id, (count + 1,) float64; entry 0 is 0.
    """
    values = np.zeros(count + 1)
    for channels, reads in groups:
        rows, biases = _reach_of(channels, producers)
        if not rows:
            rows, biases = [np.ones((channels.size, 1))], [np.zeros(channels.size)]
        constant = [r for r in reads if r.weight is not None]
        known = (part for r in constant for part in _slices(channels, r))
        known = known if constant else [np.ones((1, channels.size, 1))]
        values[channels] = coreset_scores(rows, biases, known, "relu", 1.0, relative=True)
    return values
