"""Two passes over the data: traces of the axes that consumers read, then the gaps of what was proposed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Feed, FeedSamples, Samples
from onnxpfp.lossless.detect import Trace, largest_gaps, trace

__all__ = ["Look", "Pair", "Site", "gaps_of", "noise_like", "traces_of"]

Site = tuple[str, int]
"""A tensor and one of its axes."""
Pair = tuple[int, int, float]
"""Indices j and k of an axis and the factor alpha of x_j = alpha x_k."""
Look = Callable[[tuple[str, ...]], Iterator[Mapping[str, NDArray[Any]]]]
"""Runs the network over the samples and yields the tensors that are asked for, some at a time."""

SCALES = (0.1, 1.0, 10.0)
FEEDS = 4
"""Feeds of noise at each scale."""


def traces_of(look: Look, sites: Iterable[Site], first_batch: int = 0) -> dict[Site, Trace]:
    """Take the trace of every site over all samples.

    Args:
        look: Runs the network.
        sites: The tensors and axes.
        first_batch: Number of the first batch, where the samples are a shard of all samples: it decides the draws.
    """
    axes = _axes(sites)
    numbers = {name: number for number, name in enumerate(axes)}
    batches = dict.fromkeys(axes, first_batch)
    traces: dict[Site, Trace] = {}
    for name, array in _arrays(look, axes):
        for axis in axes[name]:
            batch = trace(array, axis, np.random.default_rng([numbers[name], axis, batches[name]]))
            traces[name, axis] = traces[name, axis].merge(batch) if (name, axis) in traces else batch
        batches[name] += 1
    return traces


def gaps_of(look: Look, pairs: Mapping[Site, list[Pair]]) -> dict[Site, NDArray[np.float64]]:
    """Measure the largest |x_j - alpha x_k| of pairs of indices over all samples."""
    axes = _axes(pairs)
    asked = {site: tuple(np.array(part) for part in zip(*pairs[site], strict=True)) for site in pairs}
    found = {site: np.zeros(len(pairs[site])) for site in pairs}
    for name, array in _arrays(look, axes):
        for axis in axes[name]:
            dropped, kept, factor = asked[name, axis]
            gaps = largest_gaps(array, axis, dropped, kept, factor)
            found[name, axis] = np.maximum(found[name, axis], gaps)
    return found


def _axes(sites: Iterable[Site]) -> dict[str, list[int]]:
    axes: dict[str, list[int]] = {}
    for name, axis in sites:
        axes.setdefault(name, []).append(axis)
    return axes


def _arrays(look: Look, axes: Mapping[str, list[int]]) -> Iterator[tuple[str, NDArray[Any]]]:
    if axes:
        for shard in look(tuple(axes)):
            yield from shard.items()


def noise_like(model: ModelProto, samples: Samples, rng: np.random.Generator) -> Samples:
    """Draw normal noise of several scales in the shapes of some samples; integers stay what they are."""
    given = [feed for feed, _ in zip(samples.batches(1), range(FEEDS), strict=False)]
    feeds: list[Feed] = [
        {name: _noise(array, scale, rng) for name, array in feed.items()} for scale in SCALES for feed in given
    ]
    specs = input_specs(model, {name: array.shape for name, array in given[0].items()})
    return FeedSamples.of(specs, feeds)


def _noise(array: NDArray[Any], scale: float, rng: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind in "iubOSU":
        return array
    return np.asarray(rng.standard_normal(array.shape) * scale).astype(array.dtype)
