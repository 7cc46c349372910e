"""Shards of the samples merge to what one run over all samples gives, for every statistic; files keep it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto
from support.graphs import build

from onnxpfp.calibrate.activations import stream_activations
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Mergeable, State, load_states, save_states
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.data.splits import CalibrationData, Split
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.columns import sample_positions
from onnxpfp.linear.describe import linear_ops
from onnxpfp.lossless.traces import traces_of
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze, open_model, read_data
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.pipeline.refit_problem import refit_setup, start_gram_observers
from onnxpfp.progress import Clock
from onnxpfp.runtime.providers import resolve_providers
from onnxpfp.score.registry import CRITERIA

NET = """g (float[N,3,12,12] x) => (y) <float[6,3,3,3] w, float[6] b, float[8,6,3,3] u, float[8,5] v> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  c = Conv <strides = [2,2]> (r, u)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  y = MatMul(f, v) }"""
COUNT, BATCH = 24, 4
OPTIONS = Options(threads=1, seed=5, batch_size=BATCH)
REQUESTS = resolve_providers("cpu")


def analysis_of(model: ModelProto, samples: np.ndarray) -> tuple[Analysis, Samples]:
    source = load(model)
    data = read_data(source, open_model(source, OPTIONS)[0], samples, OPTIONS)
    return analyze(source, data, OPTIONS), data.samples


@pytest.fixture(scope="module")
def whole() -> tuple[Analysis, Samples]:
    return analysis_of(build(NET), nets.noise(COUNT, 3, 12, 12))


def shard(whole: tuple[Analysis, Samples], first: int, last: int) -> tuple[Analysis, Samples]:
    return whole[0], whole[1]._pick(np.arange(first, last))


def sensitivities(analysis: Analysis, samples: Samples, first: int) -> list[Mergeable]:
    ops = linear_ops(analysis)
    found = calibrate(analysis.model, ops, samples, batch_size=BATCH, threads=1, first_sample=first)
    return [found[op.name] for op in ops]


def grams(analysis: Analysis, samples: Samples, first: int) -> list[Mergeable]:
    split = Split(samples, samples, samples)
    data = CalibrationData(samples, "file", BATCH, split)
    context = RunContext(analysis, data, REQUESTS, (), OPTIONS, None, 0, Clock())
    observers = start_gram_observers(refit_setup(context, analysis, split))
    calibrate(analysis.model, (), samples, batch_size=BATCH, threads=1, observers=observers, first_sample=first)
    return list(observers)


def measurements(analysis: Analysis, samples: Samples, first: int) -> Measurements:
    ops = linear_ops(analysis)
    return Measurements(analysis, ops, samples, BATCH, REQUESTS, OPTIONS, None, first)


def map_means(analysis: Analysis, samples: Samples, first: int) -> list[Mergeable]:
    return list(measurements(analysis, samples, first)._map_means(CRITERIA["apoz"].of_maps))


def contributions(analysis: Analysis, samples: Samples, first: int) -> list[Mergeable]:
    return list(measurements(analysis, samples, first).contribution_sums())


def traces(analysis: Analysis, samples: Samples, first: int) -> list[Mergeable]:
    def look(names: tuple[str, ...]) -> Any:
        bundles = [{name: analysis.shapes.shape[name]} for name in names]
        return (values for _, values in stream_activations(analysis.model, bundles, samples, batch_size=BATCH))

    return list(traces_of(look, [("r", 1), ("s", 1)], first // BATCH).values())


STATISTICS: dict[str, Callable[[Analysis, Samples, int], list[Mergeable]]] = {
    "sensitivities": sensitivities,
    "grams": grams,
    "map means": map_means,
    "contributions": contributions,
    "traces": traces,
}
EXACT = {"channels", "sensitivity", "patches", "negative", "samples", "finite", "low", "high", "grain"}
"""Maxima and counts."""


def equal(one: State, two: State) -> None:
    assert one.keys() == two.keys()
    for name, array in one.items():
        if name in EXACT or name.endswith("count"):
            np.testing.assert_array_equal(array, two[name], err_msg=name)
        else:
            scale = float(np.abs(array).max(initial=0.0))
            np.testing.assert_allclose(array, two[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)


@pytest.mark.parametrize("border", [4, 12, 20])
@pytest.mark.parametrize("name", STATISTICS)
def test_two_shards_merged_are_one_run(whole: tuple[Analysis, Samples], name: str, border: int) -> None:
    collected = STATISTICS[name](*whole, 0)
    assert collected
    first = STATISTICS[name](*shard(whole, 0, border), 0)
    second = STATISTICS[name](*shard(whole, border, COUNT), border)
    for together, one, two in zip(collected, first, second, strict=True):
        equal(together.state(), one.merge(two).state())
        equal(together.state(), two.merge(one).state())


@pytest.mark.parametrize("name", STATISTICS)
def test_a_file_keeps_them(whole: tuple[Analysis, Samples], name: str, tmp_path: Path) -> None:
    collected = STATISTICS[name](*whole, 0)
    save_states(tmp_path / "states", [statistic.state() for statistic in collected])
    loaded = load_states(tmp_path / "states")
    fresh = STATISTICS[name](*shard(whole, 0, 4), 0)
    for statistic, empty, state in zip(collected, fresh, loaded, strict=True):
        again = empty.restored(state).state()
        assert again.keys() == statistic.state().keys()
        for key, array in statistic.state().items():
            np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("name", ["grams", "contributions"])
@pytest.mark.parametrize("batches", [(1,), (24,), (5, 7)])
def test_draws_do_not_depend_on_the_batches(
    whole: tuple[Analysis, Samples], name: str, batches: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = [statistic.state() for statistic in STATISTICS[name](*whole, 0)]
    for size in batches:
        monkeypatch.setitem(globals(), "BATCH", size)
        for state, statistic in zip(together, STATISTICS[name](*whole, 0), strict=True):
            equal(state, statistic.state())


def test_the_sums_of_another_network_are_refused(whole: tuple[Analysis, Samples]) -> None:
    wider = NET.replace("6,3,3,3", "7,3,3,3").replace("[6]", "[7]").replace("8,6", "8,7")
    other = analysis_of(build(wider), nets.noise(24, 3, 12, 12))
    pairs = list(zip(grams(*whole, 0), grams(*other, 0), strict=True))
    assert pairs
    for one, two in pairs[:1]:
        with pytest.raises(CalibrationError, match="the sums of another network cannot be taken over"):
            one.restored(two.state())


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_file_of_statistics_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "states"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationError, match="states is not a file of statistics of onnxpfp"):
        load_states(path)


def test_every_sample_has_positions_of_its_own() -> None:
    drawn = sample_positions((400, 2, 9, 9), 1, 5, (0, 1), 0)
    assert drawn.shape == (400, 5)
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 390
    assert drawn.min() == 0
    assert drawn.max() == 80
    counts = np.bincount(drawn.ravel(), minlength=81)
    # 2,000 draws over 81 positions: 24.7 each, standard deviation 4.8.
    assert counts.min() > 5
    assert counts.max() < 50
