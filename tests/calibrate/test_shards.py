"""Shards of the samples merge to what one run over all samples gives, for every statistic; files keep it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from onnx import ModelProto
from support.graphs import build

import onnxpfp
from onnxpfp.calibrate.collect import calibrate
from onnxpfp.calibrate.observer import Observer
from onnxpfp.calibrate.probe import build_probe
from onnxpfp.calibrate.runner import NetworkRunner
from onnxpfp.calibrate.sensitivity.device import DeviceSensitivityObserver, Programs
from onnxpfp.calibrate.sensitivity.settings import SensitivitySettings
from onnxpfp.calibrate.sensitivity.weight_observer import WeightSensitivityObserver
from onnxpfp.calibrate.statistics import Statistic, merged, statistic_arrays, statistics_of
from onnxpfp.channels import Analysis
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import load_samples
from onnxpfp.data.splits import CalibrationData, Split
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.columns import sample_positions
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.families import op_families
from onnxpfp.lossless.traces import GapObserver, TraceObserver
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.choice_bounds import ErrorObserver
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.criteria import criterion_of
from onnxpfp.pipeline.feature_maps import MapStatisticsObserver, read_maps
from onnxpfp.pipeline.input_limits import PatchNormObserver
from onnxpfp.pipeline.measurements import (
    ContributionObserver,
    MapObserver,
    Measurements,
    MomentObserver,
    SquareObserver,
    consumer_taps,
)
from onnxpfp.pipeline.reading import read_data
from onnxpfp.pipeline.refit_problem import refit_setup, start_gram_observers
from onnxpfp.progress import Clock
from onnxpfp.runtime.device_memory import DeviceMemory
from onnxpfp.runtime.providers import resolve_providers

NET = """g (float[N,3,12,12] x) => (y) <float[6,3,3,3] w, float[6] b, float[8,6,3,3] u, float[8,5] v> {
    a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu(a)  c = Conv <strides = [2,2]> (r, u)  s = Relu(c)
    p = GlobalAveragePool(s)  f = Flatten(p)  t = Transpose <perm = [1,0]> (f)  y = Gemm <transA = 1> (t, v) }"""
Statistics = Mapping[str, Statistic]
COUNT, BATCH = 24, 4
OPTIONS = Options(threads=1, seed=5, batch_size=BATCH)
REQUESTS = resolve_providers("cpu")


def analysis_of(model: ModelProto, samples: np.ndarray) -> tuple[Analysis, Samples]:
    source = load(model)
    data = read_data(source, open_model(source, OPTIONS)[1], samples, OPTIONS)
    # All of them, none held out.
    return analyze(source, data, OPTIONS), load_samples(samples, input_specs(source.model))


@pytest.fixture(scope="module")
def whole() -> tuple[Analysis, Samples]:
    return analysis_of(build(NET), nets.noise(COUNT, 3, 12, 12))


def shard(whole: tuple[Analysis, Samples], first: int, last: int) -> tuple[Analysis, Samples]:
    return whole[0], whole[1]._pick(np.arange(first, last))


def sensitivities(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    ops = linear_ops(analysis)
    return calibrate(analysis.model, ops, samples, batch_size=BATCH, threads=1, first_sample=first)


def of_weights(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    families = op_families(watching.ops)
    return collected([WeightSensitivityObserver(f, SensitivitySettings("max"), False) for f in families], watching.run)


def in_graph(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    ops = linear_ops(analysis)
    return calibrate(analysis.model, ops, samples, batch_size=BATCH, threads=1, first_sample=first, method="plain")


def measurements(analysis: Analysis, samples: Samples, first: int) -> Measurements:
    ops = linear_ops(analysis)
    return Measurements(analysis, ops, samples, BATCH, REQUESTS, OPTIONS, None, first)


def collected(observers: Sequence[Observer], run: Callable[[Sequence[Observer]], None]) -> Statistics:
    run(observers)
    return {name: each for observer in observers for name, each in observer.statistics().items()}


def on_device(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    families = op_families(measurements(analysis, samples, first).ops)
    plan, programs = SensitivitySettings(), Programs(DeviceMemory(), REQUESTS, 1)
    probe = build_probe(analysis.model, (), plan, families)
    pairs = zip(families, probe.taps, strict=True)
    observers = [DeviceSensitivityObserver(family, plan, False, tap, programs) for family, tap in pairs]
    runner = NetworkRunner(
        analysis.model, samples, BATCH, REQUESTS, 1, total=len(samples), first_sample=first, place=programs.place
    )
    return collected(observers, lambda some: runner.run(some, probe.model, probe.taps))


def grams(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    split = Split(samples, samples)
    data = CalibrationData(samples, "file", BATCH, split)
    context = RunContext(analysis, data, REQUESTS, (), OPTIONS, None, 0, Clock())
    observers = start_gram_observers(refit_setup(context, analysis, split), fits_only=False)
    return collected(observers, measurements(analysis, samples, first).run)


def map_sums(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    return collected([MapObserver(op, criterion_of("apoz").of_maps) for op in watching.ops], watching.run)


def contributions(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    return collected([ContributionObserver(op, (5, n)) for n, op in enumerate(watching.ops)], watching.run)


def moments(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    return collected([MomentObserver(op, (5, n)) for n, op in enumerate(watching.ops)], watching.run)


def squares(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    return collected([SquareObserver(op, (5, n), COUNT) for n, op in enumerate(watching.ops)], watching.run)


def errors_of_a_choice(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    observers = [
        ErrorObserver(op, (5, n), (op.channels % 2 == 0) * 1.0, np.ones((op.group, consumer_taps(op).shape[1])))
        for n, op in enumerate(watching.ops)
    ]
    return collected(observers, watching.run)


def statistics_of_maps(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    sources = [source for maps in read_maps(analysis, watching.ops) for source in maps.sources]
    observers = [MapStatisticsObserver(source, True, f"maps {number}") for number, source in enumerate(sources)]
    return collected(observers, watching.run)


def patch_norms(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    watching = measurements(analysis, samples, first)
    return collected([PatchNormObserver(op) for op in watching.ops if op.weight is not None], watching.run)


SITES = [("r", 1), ("s", 1), ("f", 1), ("t", 0)]


def traces(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    shapes = analysis.shapes.shape
    observers = [TraceObserver(site, shapes[site[0]], number) for number, site in enumerate(SITES)]
    return collected(observers, measurements(analysis, samples, first).run)


def gaps(analysis: Analysis, samples: Samples, first: int) -> Statistics:
    pairs = [(0, 1, 0.5), (2, 4, -1.0)]
    observers = [GapObserver(site, analysis.shapes.shape[site[0]], pairs) for site in SITES]
    return collected(observers, measurements(analysis, samples, first).run)


STATISTICS: dict[str, Callable[[Analysis, Samples, int], Statistics]] = {
    "sensitivities": sensitivities,
    "of weights": of_weights,
    "in graph": in_graph,
    "on device": on_device,
    "grams": grams,
    "map sums": map_sums,
    "statistics of maps": statistics_of_maps,
    "patch norms": patch_norms,
    "contributions": contributions,
    "moments": moments,
    "squares": squares,
    "errors of a choice": errors_of_a_choice,
    "traces": traces,
    "gaps": gaps,
}
EXACT = {
    *("channels", "sensitivity", "patches", "negative", "samples", "count"),
    *("low", "high", "grain", "largest", "value"),
}
"""Maxima and counts."""


def equal(one: Statistics, two: Statistics) -> None:
    assert one.keys() == two.keys()
    for name, statistic in one.items():
        for part in fields(statistic):
            array, other = (np.asarray(getattr(each, part.name)) for each in (statistic, two[name]))
            if part.name in EXACT:
                np.testing.assert_array_equal(array, other, err_msg=part.name)
            else:
                scale = float(np.abs(array).max(initial=0.0))
                np.testing.assert_allclose(array, other, rtol=1e-6, atol=1e-6 * scale, err_msg=part.name)


def concrete(kind: type[Observer]) -> set[type[Observer]]:
    """List the classes of the package that can be used as such."""
    below = {each for child in kind.__subclasses__() for each in concrete(child)}
    return below if inspect.isabstract(kind) or not kind.__module__.startswith("onnxpfp.") else {kind, *below}


def test_every_observer_is_here(whole: tuple[Analysis, Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in pkgutil.walk_packages(onnxpfp.__path__, "onnxpfp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ran: set[type[Observer]] = set()
    original = NetworkRunner.run

    def listen(runner: NetworkRunner, observers: Sequence[Observer], *args: Any) -> None:
        ran.update(map(type, observers))
        original(runner, observers, *args)

    monkeypatch.setattr(NetworkRunner, "run", listen)
    for collect in STATISTICS.values():
        collect(*shard(whole, 0, 4), 0)
    assert concrete(Observer) == ran


@pytest.mark.parametrize("border", [4, 12, 20])
@pytest.mark.parametrize("name", STATISTICS)
def test_two_shards_merged_are_one_run(whole: tuple[Analysis, Samples], name: str, border: int) -> None:
    together = STATISTICS[name](*whole, 0)
    assert together
    first = STATISTICS[name](*shard(whole, 0, border), 0)
    second = STATISTICS[name](*shard(whole, border, COUNT), border)
    equal(together, merged(first, second))
    equal(together, merged(second, first))


@pytest.mark.parametrize("name", STATISTICS)
def test_a_file_keeps_them(whole: tuple[Analysis, Samples], name: str, tmp_path: Path) -> None:
    together = STATISTICS[name](*whole, 0)
    np.savez(tmp_path / "kept.npz", allow_pickle=False, **statistic_arrays(together))
    with np.load(tmp_path / "kept.npz") as arrays:
        loaded = statistics_of(arrays, list(together), type(next(iter(together.values()))))
    assert loaded.keys() == together.keys()
    for key, statistic in together.items():
        for part in fields(statistic):
            found, kept = getattr(loaded[key], part.name), getattr(statistic, part.name)
            assert isinstance(found, np.ndarray) == isinstance(kept, np.ndarray)
            np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("name", ["grams", "contributions", "traces"])
@pytest.mark.parametrize("batches", [(1,), (24,), (5, 7)])
def test_draws_do_not_depend_on_the_batches(
    whole: tuple[Analysis, Samples], name: str, batches: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = STATISTICS[name](*whole, 0)
    for size in batches:
        monkeypatch.setitem(globals(), "BATCH", size)
        equal(together, STATISTICS[name](*whole, 0))


def test_the_sums_of_another_network_are_refused(whole: tuple[Analysis, Samples]) -> None:
    wider = NET.replace("6,3,3,3", "7,3,3,3").replace("[6]", "[7]").replace("8,6", "8,7")
    other = analysis_of(build(wider), nets.noise(24, 3, 12, 12))
    with pytest.raises(CalibrationError, match="statistics of two different networks cannot be merged"):
        merged(grams(*whole, 0), grams(*other, 0))


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
