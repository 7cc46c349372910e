"""Groups of channels in numpy terms: everything that a criterion may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from onnxpfp.arrays import AnyFloats, Floats, Ints, chunks
from onnxpfp.score.map_statistics import MapStatistics

__all__ = ["ConsumerData", "ConsumerGram", "GroupData", "long_rows", "places"]


def places(axis: Ints, channels: Ints) -> Ints:
    """Return where the channels of a group lie on an axis, (n, m): all of them equally often.

    Args:
        axis: Channel id of every index of the axis.
        channels: Channel ids of the group, ascending, (n,).
    """
    where = np.flatnonzero(np.isin(axis, channels))
    return where[np.argsort(axis[where], kind="stable")].reshape(channels.size, -1)


def long_rows(weights: AnyFloats, picked: Ints, scale: Floats | None = None) -> Iterator[Floats]:
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


@dataclass(frozen=True, slots=True, eq=False)
class ConsumerData:
    """One consumer of a group.

    Attributes:
        positions: Where each channel of the group lies on the contracted axis, (n, m).
        indices: Length C of that axis.
        weight: Returns the weights in canonical layout (C, O/g, *kernel); None where both operands are activations.
        square_sum: Sum of the squared input of every index, (C,); with the need "squares".
        map_mean: Mean over samples of what the criterion makes of the maps, (C,); with the need "maps".
        contributions: Q (C, C) of `onnxpfp.score.thinet`; with the need "contributions".
        mean_share: Mean share of every index (`onnxpfp.score.mean_share`), (C,); with the need "shares".
        results: What `once` has computed; all groups that the consumer reads share it.
    """

    positions: Ints
    indices: int
    weight: Callable[[], AnyFloats] | None
    square_sum: Floats | None = None
    map_mean: Floats | None = None
    contributions: Floats | None = None
    mean_share: Floats | None = None
    results: dict[str, Floats] = field(default_factory=dict[str, Floats])

    def once(self, name: str, compute: Callable[[], Floats]) -> Floats:
        """Return what a function gives, computed once for all groups that the consumer reads."""
        if name not in self.results:
            self.results[name] = compute()
        return self.results[name]

    def weights(self) -> AnyFloats:
        """Return the weights from every index, (C, ...): ones where both operands are activations."""
        return np.ones(self.indices) if self.weight is None else self.weight()


@dataclass(frozen=True, slots=True, eq=False)
class ConsumerGram:
    """A consumer's weights with the covariance of its inputs: one linear map, of one convolution group.

    Where there are too many columns, the k columns of one input (its taps) count alike: then the covariance is that of
    the inputs, and every tap is an output of its own, whose errors are added up.

    Attributes:
        covariance: Of all its columns, (n, n), or of its inputs, (n / k, n / k).
        weights: (o, n), an input's taps side by side.
        channel: Position in the group of every column's channel, (n,); -1 for columns of other channels.
    """

    covariance: Floats
    weights: Floats
    channel: Ints


@dataclass(frozen=True, slots=True, eq=False)
class GroupData:
    """One group of n channels. What a criterion does not need is empty.

    Attributes:
        name: The group's name.
        channels: Ids of its channels, ascending, (n,).
        filters: Each yields the filters of one producer as rows (n, d), some numbers at a time; needs "weights".
        scales: Scales of the BatchNormalizations of its channels, (n, m) each; needs "scales".
        consumers: The ops that read its channels.
        sensitivity: PFP's sensitivities, the largest over the consumers, (n,); needs "sensitivity".
        consumer_grams: The consumers with the covariance of what they read; needs "gram".
        reach: How far from zero each channel can be where its consumers read it, (n,); needs "reach".
        random: Uniform numbers in [0, 1) that the seed decides, (n,); needs "random".
        map_statistics: Statistics of its maps at every tensor that has them; needs "map-statistics".
    """

    name: str
    channels: Ints
    filters: tuple[Callable[[], Iterator[Floats]], ...] = ()
    scales: tuple[Floats, ...] = ()
    consumers: tuple[ConsumerData, ...] = ()
    sensitivity: Floats | None = None
    consumer_grams: tuple[ConsumerGram, ...] = ()
    reach: Floats | None = None
    random: Floats | None = None
    map_statistics: tuple[MapStatistics, ...] = ()

    @property
    def size(self) -> int:
        """Number of channels n."""
        return self.channels.size

    def columns(self) -> Iterator[Floats]:
        """Yield the consumers' weights of every channel as rows (n, d), some numbers at a time."""
        for consumer in self.consumers:
            if consumer.weight is not None:
                yield from long_rows(consumer.weight(), consumer.positions)

    def rows(self) -> Iterator[Floats]:
        """Yield the producers' filters of every channel as rows (n, d), some numbers at a time."""
        for filters in self.filters:
            yield from filters()

    def sum_over_consumers(self, shares: Iterable[Floats]) -> Floats:
        """Sum over the consumers what each gives its indices, (C,) per consumer; returns (n,)."""
        total = np.zeros(self.size)
        for consumer, share in zip(self.consumers, shares, strict=True):
            for column in consumer.positions.T:
                total += share[column]
        return total
