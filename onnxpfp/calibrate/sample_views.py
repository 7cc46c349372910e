"""What observers see of a batch: all of it, or sample by sample where the samples lie along another axis than 0.

Observers take axis 0 for that of the samples, and draw positions of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.data.axes import SampleAxes

__all__ = ["needs_of", "sample_views"]


def needs_of(observers: Sequence[Observer]) -> dict[str, Shape]:
    """Return what observers need together: shapes for one sample, by name."""
    return {name: shape for observer in observers for name, shape in observer.needs.items()}


def sample_views(
    observers: Sequence[Observer], tensors: Arrays, batch: Batch, axes: SampleAxes
) -> Iterator[tuple[Sequence[Observer], Arrays, Batch]]:
    """Yield who sees what of a batch.

    Args:
        observers: Who looks on.
        tensors: What the network computed, its inputs among them.
        batch: The samples that they belong to.
        axes: The sample axes of the inputs.
    """
    if batch.samples == 1 or not any(axes.values()):
        yield observers, tensors, batch
        return
    cut = {name: _axis_of_samples(shape, tensors[name], batch.samples) for name, shape in needs_of(observers).items()}
    apart = [each for each in observers if all(cut[name] is not None for name in each.needs)]
    yield [each for each in observers if each not in apart], tensors, batch
    for number in range(batch.samples if apart else 0):
        one = {name: _sample(tensors[name], cut[name], batch.samples, number) for name in needs_of(apart)}
        yield apart, one, Batch(batch.first + number, 1)


def _axis_of_samples(shape: Shape, tensor: Any, samples: int) -> int | None:
    """Return the one axis of a tensor that is longer than for one sample, as many times as there are samples."""
    if not isinstance(tensor, np.ndarray):
        return None
    found = cast("NDArray[Any]", tensor).shape
    grown = (tuple(size * (samples if a == axis else 1) for a, size in enumerate(shape)) for axis in range(len(shape)))
    axes = [axis for axis, each in enumerate(grown) if each == found != shape]
    return axes[0] if axes else None


def _sample(array: Any, axis: int | None, samples: int, number: int) -> Any:
    """Return what a tensor has of one of the samples along an axis, a view."""
    assert axis is not None
    length = array.shape[axis] // samples
    return array[(slice(None),) * axis + (slice(number * length, (number + 1) * length),)]
