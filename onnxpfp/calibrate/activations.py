"""Intermediate tensors of a network, batch by batch, as many at a time as the workspace holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxpfp.calibrate.sensitivity.base import not_finite
from onnxpfp.data.samples import Samples
from onnxpfp.model.edit import drop_unread, forget_axis_names
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import open_session

__all__ = ["Bundle", "channels_first", "stream_activations"]

Bundle = Mapping[str, tuple[int, ...]]
"""Tensors that must come together: their shapes for one sample, by name."""

_BYTES = 4
"""Of one number; double precision is rare, and the workspace is no hard limit."""


def stream_activations(
    model: ModelProto,
    bundles: Sequence[Bundle],
    samples: Samples,
    *,
    batch_size: int,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    threads: int | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[range, dict[str, NDArray[Any]]]]:
    """Run the samples and yield intermediate tensors.

    Bundles are cut into runs whose tensors fit the workspace together, and each run has its own pass over the samples,
    through no more of the network than it needs. Where one bundle alone does not fit, the batch gets smaller.

    Args:
        model: The network; it is not changed.
        bundles: What to yield.
        samples: What to feed.
        batch_size: Most samples in one run.
        providers: As in `open_session`.
        threads: Threads inside one op; None lets onnxruntime choose.
        workspace_bytes: Limit of what comes out of one run, as far as one sample can keep it.
        progress: Told how many samples are done, of how many; each counts once in every pass.

    Yields:
        Positions of the bundles that are there, and their tensors by name; every bundle once per batch.

    Raises:
        CalibrationError: The network computes NaN or infinity.
        ModelError: onnxruntime cannot run the network.
    """
    largest = max((_size(bundle) for bundle in bundles), default=1)
    batch = max(1, min(batch_size, workspace_bytes // max(1, largest)))
    runs = list(_shards(bundles, workspace_bytes // batch))
    done, total = 0, len(runs) * len(samples)
    for run in runs:
        names = list(dict.fromkeys(name for position in run for name in bundles[position]))
        session = open_session(_showing(model, names), providers, threads=threads, layout=False)
        for feed, count in samples.runs(batch):
            values = session.run(feed, names)
            _check_finite(values)
            yield run, values
            done += count
            if progress:
                progress(done, total)


def _size(bundle: Bundle) -> int:
    return _BYTES * sum(math.prod(shape) for shape in bundle.values())


def _shards(bundles: Sequence[Bundle], limit: int) -> Iterator[range]:
    """Cut bundles into runs of at most `limit` bytes each, in the given order; tensors of several count once."""
    start, held = 0, dict[str, tuple[int, ...]]()
    for position, bundle in enumerate(bundles):
        together = held | dict(bundle)
        if position > start and _size(together) > limit:
            yield range(start, position)
            start, together = position, dict(bundle)
        held = together
    if bundles:
        yield range(start, len(bundles))


def _showing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Copy a model with other outputs, and without what only served its own."""
    shown = ModelProto()
    shown.CopyFrom(model)
    before = [output.name for output in shown.graph.output]
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names)
    drop_unread(shown.graph, before)
    return forget_axis_names(shown)


def _check_finite(values: Mapping[str, NDArray[Any]]) -> None:
    for name, array in values.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise not_finite(name)


def channels_first(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """Bring a tensor to (N, C, *spatial): a view.

    Args:
        array: The tensor; axis 0 are the samples, unless it is that of the channels: then it is one sample.
        axis: Its channel axis, counted from the front.
    """
    return np.moveaxis(array, axis, 1) if axis else array[None]
