"""Held-out samples decide nothing: whatever they are, the written file is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto
from support.bodies import IFS, LOOPS, build_bodies
from support.bodies import samples as feeds_of

import onnxpfp
from onnxpfp.data.feed_samples import FeedSamples
from onnxpfp.data.samples import ArraySamples
from onnxpfp.options import Options
from onnxpfp.pipeline.context import open_run

Feeds = list[dict[str, nets.Array]]
SEEDS = (0, 1, 2)
COUNT = 72
HELD = COUNT // 8
LENGTHS = nets.CHAIN.replace("(float[N,5] y) {", "(float[N,5] y, int64[4,M] n) { n = NonZero(x)")
"""A second output, as long as the data say."""
SUMMED = " { m = ReduceMean <axes = [0]> (x) z = Add(x, m)"
MIXED = nets.CHAIN.replace("(x, w1, b1)", "(z, w1, b1)").replace(" {", SUMMED)
"""Samples that change each other in a batch."""


@dataclass(frozen=True)
class Case:
    """A network, samples of one input, and how to prune."""

    model: ModelProto
    samples: nets.Array
    options: Mapping[str, Any]


@cache
def case(name: str) -> Case:
    images = nets.noise(COUNT, 3, 8, 8)
    chain, uniform = nets.chain(), {"allocate": "uniform"}
    shapes = nets.CHAIN_SHAPES
    return {
        "refit, measured widths": Case(chain, images, {}),
        "sampled": Case(chain, images, {"select": "sampled", "compensate": "bias"}),
        "by reconstruction": Case(chain, images, {"score": "reconstruction", **uniform}),
        "by maps": Case(chain, images, {"score": "chip", **uniform}),
        "in steps": Case(chain, images, {"steps": 2}),
        "whole batches": Case(nets.build(nets.CHAIN.replace("N,3,8,8", "2,3,8,8"), shapes), images, {}),
        "samples one by one": Case(nets.build(MIXED, shapes), images, {}),
        "an output whose length the data say": Case(nets.build(LENGTHS, shapes), images, {}),
    }[name]


CASES = (
    "refit, measured widths",
    "sampled",
    "by reconstruction",
    "by maps",
    "in steps",
    "whole batches",
    "samples one by one",
    "an output whose length the data say",
)


def held_out(model: ModelProto, samples: Any, seed: int, certifying: bool = False) -> Any:
    """The samples that a pruning holds out."""
    options = Options(seed=seed, threads=1, min_agreement=0.5 if certifying else None)
    found = open_run(model, samples, options, ()).data.held_out
    assert found is not None
    return found


def other(shape: Sequence[int], number: int) -> nets.Array:
    """What may stand in the place of some samples: far larger, all alike, or nothing at all."""
    drawn = nets.noise(*shape, seed=100 + number)
    return [1e3 * drawn, np.full(shape, -7.5, np.float32), np.zeros(shape, np.float32)][number % 3]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_whatever_the_held_out_samples_are_the_file_is_the_same(name: str, seed: int) -> None:
    model, samples = case(name).model, case(name).samples
    held = held_out(model, samples, seed)
    assert isinstance(held, ArraySamples)
    assert abs(len(held) - HELD) < 2
    changed = samples.copy()
    changed[held.order] = other(changed[held.order].shape, seed)

    def pruned(data: nets.Array) -> onnxpfp.Result:
        # What the file notes of itself has the agreement on them.
        options = {"threads": 1, "keep_macs": 0.6, "no_metadata": True, **case(name).options}
        return onnxpfp.prune(model, calibration=data, seed=seed, **options)

    one, two = pruned(samples), pruned(changed)
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert one.unchanged is None
    assert one.report.drift is not None
    assert two.report.drift is not None
    # It is measured on them, and on nothing else.
    assert one.report.drift.relative_error != two.report.drift.relative_error
    assert one.report.drift.samples == len(held)
    assert (one.report.before, one.report.after) == (two.report.before, two.report.after)


def without_inputs(feeds: Feeds, held: FeedSamples, number: int) -> Feeds:
    """The feeds with others in the place of those held out."""
    known = {tuple(array.tobytes() for array in feed.values()) for feed in held.feeds}
    assert len(known) == len(held)
    changed = [
        {name: other(array.shape, number) for name, array in feed.items()}
        if tuple(array.tobytes() for array in feed.values()) in known
        else feed
        for feed in feeds
    ]
    assert sum(one is not two for one, two in zip(feeds, changed, strict=True)) == len(held)
    return changed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["weights in both branches", "an If in a branch", "a convolution in a Loop"])
def test_nor_do_they_decide_on_bodies(name: str, seed: int) -> None:
    model, feeds = build_bodies((IFS | LOOPS)[name][0]), feeds_of(name)
    held = held_out(model, feeds, seed)
    assert isinstance(held, FeedSamples)
    results = [
        onnxpfp.prune(model, calibration=data, seed=seed, threads=1, keep_macs=0.6, no_metadata=True)
        for data in (feeds, without_inputs(feeds, held, seed))
    ]
    one, two = (result.model.SerializeToString() for result in results)
    assert one == two
    assert results[0].unchanged is None
    assert [body.runs for body in results[0].report.bodies] == [body.runs for body in results[1].report.bodies]
    drifts = {result.report.drift.relative_error for result in results if result.report.drift}
    assert len(drifts) == 2


def silent(samples: nets.Array, channel: int, level: float) -> ModelProto:
    """A chain of which one channel fires where an image is brighter than `level`, and nowhere else."""
    shapes: dict[str, Any] = dict(nets.CHAIN_SHAPES)
    rng = np.random.default_rng(5)
    w1, b1 = (rng.standard_normal(nets.CHAIN_SHAPES[name]).astype(np.float32) for name in ("w1", "b1"))
    w1[channel] = 0
    w1[channel, :, 1, 1] = 1 / 3
    b1[channel] = -level
    assert (samples.mean(1).max((1, 2)) > level).any()
    return nets.build(nets.CHAIN, shapes | {"w1": w1, "b1": b1})


@pytest.mark.parametrize("seed", SEEDS)
def test_a_channel_that_only_held_out_samples_wake_goes_and_the_drift_shows_it(seed: int) -> None:
    samples = np.abs(nets.noise(COUNT, 3, 8, 8)).clip(0, 2)
    bright = samples.copy()
    position = int(held_out(nets.chain(), samples, seed).order[0])
    bright[position] += 50
    model = silent(bright, channel=2, level=40)
    # A target that is reached by what costs nothing alone.
    asked: Any = {"keep_macs": 0.95, "min_channels": 7, "seed": seed, "threads": 1, "compensate": "none"}
    asked["no_metadata"] = True
    found = [onnxpfp.prune(model, calibration=data, **asked) for data in (samples, bright)]
    for result in found:
        (removal,) = result.report.removed
        assert (removal.kind, removal.source, len(removal.channels)) == ("dead", "data", 1)
        assert removal.samples == COUNT - HELD
        assert 2 not in result.plan.initializers["w1"].keep[0]
    quiet, loud = (result.report.drift for result in found)
    assert quiet is not None
    assert loud is not None
    assert loud.relative_error > 10 * quiet.relative_error
    assert found[0].model.SerializeToString() == found[1].model.SerializeToString()
    # Where the same image is one of the others, the channel stays.
    others = bright.copy()
    others[position], awake = samples[position], (position + 1) % COUNT
    while awake in held_out(nets.chain(), samples, seed).order:
        awake = (awake + 1) % COUNT
    others[awake] += 50
    assert not onnxpfp.prune(model, calibration=others, **asked).report.removed


def test_a_target_for_the_quality_holds_more_samples_out() -> None:
    samples = nets.noise(COUNT, 3, 8, 8)
    assert len(held_out(nets.chain(), samples, 0, certifying=True)) == COUNT // 4
    assert len(held_out(nets.chain(), samples, 0)) == HELD
