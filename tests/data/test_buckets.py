"""Single samples of several shapes: those of one shape run together, in an order that no batch size changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxpfp.data.buckets import BucketedSamples
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
SPECS = (InputSpec("x", F32, (None, None), ("batch", "seq")), InputSpec("rate", I64, ()))
LENGTHS = (5, 7, 5, 7, 7, 3)


def feeds(lengths: tuple[int, ...] = LENGTHS, rates: tuple[int, ...] = (8,) * 6) -> list[dict[str, np.ndarray]]:
    return [
        {"x": np.full((1, length), at, np.float32), "rate": np.array(rate)}
        for at, (length, rate) in enumerate(zip(lengths, rates, strict=True))
    ]


def order(samples: Any, batch: int) -> list[list[float]]:
    return [feed["x"][:, 0].tolist() for feed in samples.batches(batch)]


def test_samples_of_one_shape_run_together() -> None:
    samples = load_samples(feeds(), SPECS)
    assert isinstance(samples, BucketedSamples)
    assert order(samples, 8) == [[0, 2], [1, 3, 4], [5]]
    assert order(samples, 2) == [[0, 2], [1, 3], [4], [5]]
    assert order(samples, 1) == [[0], [2], [1], [3], [4], [5]]
    assert (samples.fixed_batch, samples.batched, len(samples)) == (None, True, 6)
    assert samples.notes == ("samples have 3 different shapes; those of one shape run together",)
    single = samples.one_by_one()
    assert order(single, 8) == [[0], [2], [1], [3], [4], [5]]
    assert (single.fixed_batch, single.batched, single.notes) == (1, False, ())


def test_a_value_for_a_whole_run_is_no_other_in_a_bucket() -> None:
    samples = load_samples(feeds((5,) * 6, (8, 16, 8, 16, 8, 8)), SPECS)
    assert [(feed["rate"].item(), count) for feed, count in samples.runs(8)] == [(8, 4), (16, 2)]


def test_they_are_split_sample_by_sample() -> None:
    samples = load_samples(feeds(), SPECS)
    rest, held = samples.split(2, 3)
    assert (len(rest), len(held)) == (4, 2)
    assert sorted(first for run in (*order(rest, 8), *order(held, 8)) for first in run) == [0, 1, 2, 3, 4, 5]
    assert order(samples.take(3), 8) == [[0, 2], [1]]


def test_parts_of_a_run() -> None:
    samples = load_samples(feeds(), SPECS)
    feed, count = [*samples.runs(8)][1]
    part = samples.part(feed, count, 1, 3)
    assert (part["x"][:, 0].tolist(), part["rate"].item(), samples.rows(part)) == ([3, 4], 8, 2)


@pytest.mark.parametrize(
    ("specs", "given"),
    [
        (SPECS, feeds((5, 6, 7, 8, 9, 10))),
        (SPECS, [*feeds(), {"x": np.zeros((2, 5), np.float32), "rate": np.array(8)}]),
        ((InputSpec("x", F32, (1, None), ("", "seq")), SPECS[1]), feeds()),
        ((InputSpec("x", F32, (1, None)), SPECS[1]), feeds((5,) * 6)),
        (SPECS, feeds()[:1]),
    ],
    ids=["no two of one shape", "a batch of the user's", "a batch of one", "fixed", "one"],
)
def test_what_runs_as_it_is(specs: tuple[InputSpec, ...], given: list[dict[str, np.ndarray]]) -> None:
    axes = {"x": 0} if specs[0].shape[0] == 1 else None
    samples = load_samples(given, specs, axes=axes)
    assert isinstance(samples, FeedSamples)
    assert [feed["x"].shape for feed in samples.batches(8)] == [feed["x"].shape for feed in given]


def test_nan_is_told_by_the_number_of_the_sample() -> None:
    given = feeds()
    given[3]["x"][0, 2] = np.nan
    with pytest.raises(CalibrationError, match="'x' has NaN or infinite values in sample 3"):
        list(load_samples(given, SPECS).batches(8))
