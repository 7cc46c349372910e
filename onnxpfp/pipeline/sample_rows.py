"""Whether what linear ops read has one sample after the other along its first axis, found by trial."""

from __future__ import annotations

from onnxpfp.comparison.decisions import exposing
from onnxpfp.comparison.sample_axes import sample_axis, twin_feeds
from onnxpfp.linear.ops import LinearOp
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.runtime.session import open_session

__all__ = ["rows_of_samples"]


def rows_of_samples(measurements: Measurements) -> bool:
    """Tell whether the rows that every op sees are those of one sample after the other, where several run.

    Args:
        measurements: The ops, and the network; its batch size is how many samples would run together.
    """
    samples, ops = measurements.samples, measurements.ops
    if not samples.batched or any(samples.axes.values()) or not all(map(_sees_rows, ops)):
        return False
    feed, count = next(iter(samples.runs(measurements.batch_size)))
    if count == 1:
        return False
    some, again, number = twin_feeds(samples, feed, count)
    names = sorted({op.data for op in ops} - some.keys())
    model = measurements.analysis.model
    session = open_session(
        lambda: with_fixed_draws(exposing(model, names)),
        measurements.requests,
        threads=measurements.options.threads,
        shared=True,
    )
    one, other = {**some, **session.run(some, names)}, {**again, **session.run(again, names)}
    return all(sample_axis(one[op.data], other[op.data], number) == 0 for op in ops)


def _sees_rows(op: LinearOp) -> bool:
    """Whether the rows that an op sees are those of the first axis of what it reads."""
    return op.axis > 0 and len(op.data_shape) > 1
