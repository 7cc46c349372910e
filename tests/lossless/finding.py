"""Look for lossless channels in a model and take them out, as the pipeline does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nets
import numpy as np
from onnx import ModelProto, numpy_helper
from support.oracle import Case, check_file, difference, problem, run

from onnxpfp.channels import ChannelGraph
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.weights import stored_axes_of
from onnxpfp.lossless import Lossless, edits_of, find_lossless
from onnxpfp.model.constants import stored_tensors
from onnxpfp.rewrite import Edits, apply
from onnxpfp.runtime.blocks import ANY_WIDTH, Alignment
from onnxpfp.runtime.providers import resolve_providers

SAMPLES = 40


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found, and the model without it."""

    graph: ChannelGraph
    lossless: Lossless
    edits: Edits
    pruned: ModelProto
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """Largest difference of any output on other inputs."""
        return max(self.errors)

    @property
    def kinds(self) -> dict[str, tuple[int, ...]]:
        """Places within their groups of the channels that go, by group and kind."""
        groups = {group.name: group.channels for group in self.graph.groups}
        return {
            f"{one.group} {one.kind}": tuple(np.flatnonzero(np.isin(groups[one.group], one.channels)).tolist())
            for one in self.lossless.removed
        }


def samples_of(model: ModelProto, count: int = SAMPLES, seed: int = 1) -> Samples:
    """Noise."""
    return load_samples("random", input_specs(model), count=count, rng=seed)


def others(model: ModelProto) -> Iterator[Feed]:
    """Yield inputs on which nothing was searched."""
    return samples_of(model, 5, seed=7).batches(3)


def find(
    model: ModelProto, *, trusted: bool = True, samples: Samples | None = None, alignment: Alignment = ANY_WIDTH
) -> Found:
    """Find what goes for free, take it out and measure the difference on other inputs."""
    case = problem(model)
    analysis = case.analysis
    ops, places = linear_ops(analysis), stored_axes_of(analysis)
    lossless = find_lossless(
        analysis,
        ops,
        places,
        samples or samples_of(model),
        trusted=trusted,
        batch_size=8,
        providers=resolve_providers("cpu"),
        threads=1,
        alignment=alignment,
    )
    edits = edits_of(analysis, ops, lossless, places, Edits())
    pruned = apply(model, case.graph, lossless.keep, edits)
    check_file(case, lossless.keep, pruned)
    errors = tuple(difference(run(model, feed), run(pruned, feed)) for feed in others(model))
    return Found(case.graph, lossless, edits, pruned, errors)


def bare(model: ModelProto, found: Found) -> float:
    """Return how far the outputs move where what goes is only cut away."""
    cut = apply(model, found.graph, found.lossless.keep, Edits())
    return max(difference(run(model, feed), run(cut, feed)) for feed in others(model))


def filters(count: int, *shape: int, seed: int = 2) -> tuple[nets.Array, nets.Array]:
    """Filters of a first layer, and biases."""
    return nets.noise(count, *shape, seed=seed), nets.noise(count, seed=seed + 1)


def constant(weight: nets.Array, bias: nets.Array, numbers: dict[int, float]) -> None:
    """Let filters put out nothing but a number."""
    for channel, number in numbers.items():
        weight[channel], bias[channel] = 0, number


def multiple(arrays: Any, channel: int, of: int, factor: float) -> None:
    """Let a filter be a multiple of another."""
    for array in arrays:
        array[channel] = array[of] * factor


def planted(case: Case, *, every: bool = False) -> ModelProto:
    """Give the second channel of every group the weights of the first, and let the third one's be zero.

    Args:
        case: The network.
        every: Whether all channels of a group get the weights of the first in their place.
    """
    copy = ModelProto()
    copy.CopyFrom(case.model)
    graph, places = case.graph, stored_axes_of(case.analysis)
    contracted = {(place.tensor, place.axis) for place in places if place is not None}
    tensors = stored_tensors(copy.graph)
    for name, axes in graph.stored_axes():
        array = numpy_helper.to_array(tensors[name]).copy()
        for axis, ids in enumerate(axes):
            for group in graph.groups if (name, axis) not in contracted and array.dtype.kind == "f" else ():
                moved = np.moveaxis(array, axis, 0)
                one, two, three = (np.flatnonzero(ids == channel) for channel in np.resize(group.channels, 3))
                for channel in group.channels if every else ():
                    other = np.flatnonzero(ids == channel)
                    if other.size == one.size:
                        moved[other] = moved[one]
                if two.size == one.size:
                    moved[two] = moved[one]
                if group.channels.size > 2 and array.ndim > 1 and not every:
                    moved[three] = 0
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return copy


def bearable(model: ModelProto) -> bool:
    """Whether a network computes numbers: with weights of zero some divide by zero."""
    feeds = [*samples_of(model).batches(8), *others(model)]
    return all(
        np.isfinite(array).all() for feed in feeds for array in run(model, feed).values() if array.dtype.kind == "f"
    )
