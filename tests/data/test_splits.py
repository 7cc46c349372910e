from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.data.splits import held_out_count, least_to_split, split_samples

F32 = np.dtype(np.float32)


def numbered(count: int, batch: int | None = None) -> ArraySamples:
    """Samples that are their own numbers."""
    numbers = np.arange(count, dtype=np.float32)[:, None]
    return ArraySamples.of((InputSpec("x", F32, (batch, 1)),), {"x": numbers})


def numbers_of(samples: Samples | None) -> list[int]:
    return [] if samples is None else np.concatenate([f["x"].ravel() for f in samples.batches(5)]).astype(int).tolist()


@given(st.integers(1, 3000), st.sampled_from([None, 1, 2, 7, 200]), st.booleans(), st.integers(0, 5))
def test_every_sample_has_one_part(count: int, batch: int | None, certifying: bool, seed: int) -> None:
    unit = batch or 1
    samples = numbered(max(unit, count // unit * unit), batch)
    asked = held_out_count(len(samples), certifying=certifying)
    deciding, split, held_out = split_samples(samples, seed, asked)
    assert (split is None) == (held_out is None) == (len(samples) < least_to_split(samples))
    if split is None:
        assert deciding is samples
        return
    parts = [numbers_of(split.fit), numbers_of(split.tuning), numbers_of(held_out)]
    assert all(parts)
    assert len({number for part in parts for number in part}) == sum(map(len, parts))
    assert sorted(parts[0] + parts[1]) == numbers_of(deciding)
    assert all(len(part) % unit == 0 for part in parts)
    assert abs(len(parts[1]) - min(128, len(samples) // 8)) < unit or len(parts[1]) == unit
    assert abs(len(parts[2]) - asked) < unit or len(parts[2]) == unit


@pytest.mark.parametrize(
    ("count", "eighth", "quarter"), [(8, 1, 2), (64, 8, 16), (1024, 128, 256), (2048, 128, 512), (9999, 128, 512)]
)
def test_a_target_for_the_quality_holds_more_out(count: int, eighth: int, quarter: int) -> None:
    assert held_out_count(count, certifying=False) == eighth
    assert held_out_count(count, certifying=True) == quarter


def test_nothing_is_held_out_where_others_measure() -> None:
    samples = numbered(80)
    deciding, split, held_out = split_samples(samples, 0, 0)
    assert (deciding, held_out) == (samples, None)
    assert split is not None
    assert (len(split.fit), len(split.tuning)) == (70, 10)
    assert sorted(numbers_of(split.fit) + numbers_of(split.tuning)) == list(range(80))


def test_feeds_stay_whole() -> None:
    spec = (InputSpec("x", F32, (None, 1)),)
    feeds = [{"x": np.full((3, 1), number, np.float32)} for number in range(10)]
    samples = FeedSamples.of(spec, feeds)
    _, split, held_out = split_samples(samples, 0, 3)
    assert split is not None
    assert [len(set(numbers_of(part))) * 3 for part in (split.fit, split.tuning, held_out)] == [
        len(numbers_of(part)) for part in (split.fit, split.tuning, held_out)
    ]
