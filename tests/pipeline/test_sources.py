"""Every source of data leads to the same result, and the input is never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import helper

import onnxpfp
from onnxpfp.errors import CalibrationError

DATA = nets.noise(24, 3, 8, 8)
KEEP = 0.3
"""So little that both convolutions lose channels. Then every refit gains far more than rounding, and the same fit wins
on every machine. A layer that keeps all its inputs has nothing to refit, and rounding says whether it gets a bias."""
CLOSE = {"w3": 4e-6, "b3": 5e-5, "w2_bias": 3e-6}
"""How far rounding can move weights; where nothing is said 1e-6, some eps of their size (eps is 1.2e-7).

Feeds run one by one and arrays in batches: in other kernels, which add float32 up in another order. So the columns u of
a refit differ by about eps |u|. It solves for their covariances, where that counts against their spread s: w3 differs
by eps |w3| |u| / s = 1.2e-7 * 3.3 * 14.7 / 1.7 = 3.4e-6, and b3 = mean(t) - w3 mean(u) by 14.7 times that. The bias of
w2 takes up many columns, whose errors are independent: eps sqrt(sum w2^2 u^2) = 25 eps = 3e-6."""


class Reader:
    """What onnxruntime calls a CalibrationDataReader; it hands out the same dict again and again."""

    def __init__(self) -> None:
        self.left = iter(DATA)
        self.feed: dict[str, np.ndarray] = {}

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.left, None)
        if image is None:
            return None
        self.feed["x"] = image[None]
        return self.feed


def singles() -> Iterator[dict[str, np.ndarray]]:
    yield from ({"x": image[None]} for image in DATA)


def saved(folder: Path, kind: str) -> Path:
    path = folder / f"data.{'npy' if kind == 'npy' else 'npz'}"
    if kind == "npy":
        np.save(path, DATA)
    else:
        np.savez(path, **{"x" if kind == "npz" else "images": DATA})
    return path


SOURCES: dict[str, Callable[[Path], Any]] = {
    "npz": lambda folder: saved(folder, "npz"),
    "npz of one array of another name": lambda folder: str(saved(folder, "one")),
    "npy": lambda folder: saved(folder, "npy"),
    "array": lambda _: DATA,
    "dict": lambda _: {"x": DATA},
    "list of feeds": lambda _: list(singles()),
    "generator of feeds": lambda _: singles(),
    "data reader": lambda _: Reader(),
}


@pytest.fixture(scope="module")
def expected() -> onnxpfp.Result:
    return onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=KEEP)


@pytest.mark.parametrize("kind", SOURCES)
def test_all_sources_give_the_same_model(kind: str, tmp_path: Path, expected: onnxpfp.Result) -> None:
    result = onnxpfp.prune(nets.chain(), calibration=SOURCES[kind](tmp_path), keep_macs=KEEP)
    assert result.report.samples == 18
    assert result.plan.initializers == expected.plan.initializers
    assert nets.weights(result.model).keys() == nets.weights(expected.model).keys()
    for name, array in nets.weights(expected.model).items():
        np.testing.assert_allclose(nets.weights(result.model)[name], array, rtol=1e-7, atol=CLOSE.get(name, 1e-6))


@pytest.mark.parametrize("sizes", [(8, 8, 8), (5, 5, 5, 5, 4), (24,), (1, 23), (3,) * 8, (2, 1) * 8])
def test_feeds_of_several_samples(sizes: tuple[int, ...]) -> None:
    ends = np.cumsum(sizes)
    feeds = [{"x": DATA[end - size : end]} for size, end in zip(sizes, ends, strict=True)]
    report = onnxpfp.prune(nets.chain(), calibration=feeds, keep_macs=0.6).report
    assert report.drift is not None
    # Feeds stay whole: where an eighth of the samples fills one, it is held out, and another decides between fits.
    assert report.drift.held_out == (max(sizes) <= 24 // 8)
    if not report.drift.held_out:
        assert report.samples == report.drift.samples == 24
        return
    assert report.drift.samples in sizes
    assert 24 - report.samples - report.drift.samples in sizes


def test_samples_limits_samples_also_in_feeds_of_several() -> None:
    feeds = [{"x": DATA[i : i + 4]} for i in range(0, 24, 4)]
    report = onnxpfp.prune(nets.chain(), calibration=feeds, keep_macs=0.6, samples=8).report
    assert report.drift is not None
    assert report.samples + report.drift.samples * report.drift.held_out == 8


@pytest.mark.parametrize(("count", "held"), [(4, 0), (8, 0), (10, 0), (24, 0), (34, 4), (64, 8)])
def test_a_fixed_batch_of_several(count: int, held: int) -> None:
    text = nets.CHAIN.replace("float[N,3,8,8]", "float[4,3,8,8]").replace("float[N,5]", "float[4,5]")
    data = nets.noise(count, 3, 8, 8)
    report = onnxpfp.prune(nets.build(text, nets.CHAIN_SHAPES), calibration=data, keep_macs=0.6).report
    assert report.drift is not None
    whole = count // 4 * 4
    assert report.samples == whole - 2 * held
    assert (report.drift.samples, report.drift.held_out) == (held or whole, held > 0)


def test_whole_batches_are_held_out_or_asked_for() -> None:
    text = nets.CHAIN.replace("float[N,3,8,8]", "float[4,3,8,8]").replace("float[N,5]", "float[4,5]")
    with pytest.raises(CalibrationError, match=r"holds samples out .*, which takes 32 samples, and 24 are given"):
        onnxpfp.prune(nets.build(text, nets.CHAIN_SHAPES), calibration=DATA, keep_macs=0.6, compensate="lstsq")


def test_a_fixed_batch_of_one() -> None:
    text = nets.CHAIN.replace("float[N,3,8,8]", "float[1,3,8,8]").replace("float[N,5]", "float[1,5]")
    result = onnxpfp.prune(nets.build(text, nets.CHAIN_SHAPES), calibration=DATA, keep_macs=0.6)
    assert result.report.samples == 18
    assert nets.run(result.model, DATA[:1]).shape == (1, 5)


def test_one_sample_is_enough() -> None:
    report = onnxpfp.prune(nets.chain(), calibration=DATA[:1], keep_macs=0.6).report
    assert report.samples == 1
    assert report.drift is not None
    assert not report.drift.held_out


@pytest.mark.parametrize("data", [np.zeros((0, 3, 8, 8), np.float32), [], {"y": DATA, "z": DATA}, DATA[:, :2], 7])
def test_bad_data_are_refused(data: Any) -> None:
    with pytest.raises(CalibrationError):
        onnxpfp.prune(nets.chain(), calibration=data, keep_macs=0.6)


@pytest.mark.parametrize("constants", [False, True])
def test_the_model_object_is_not_changed(constants: bool) -> None:
    model = nets.chain()
    if constants:
        # Tensors in Constant nodes have no name; nothing may give them one.
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
        for node in nodes:
            node.attribute[0].t.ClearField("name")
        nodes += list(model.graph.node)
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.node.extend(nodes)
    before = model.SerializeToString(deterministic=True)
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.5, select="sampled")
    assert model.SerializeToString(deterministic=True) == before
    assert result.model is not model
    result.model.graph.node[0].name = "changed"
    assert model.SerializeToString(deterministic=True) == before


def test_path_and_object_give_the_same(tmp_path: Path) -> None:
    onnx.save(nets.chain(), tmp_path / "in.onnx")
    by_path = onnxpfp.prune(str(tmp_path / "in.onnx"), calibration=DATA, keep_macs=0.6)
    by_object = onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6)
    assert by_path.model == by_object.model
    assert by_path.plan.initializers == by_object.plan.initializers


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6, progress=lambda *step: told.append(step))
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    deciding = "load shapes channels lossless calibration ranking allocation curves compensation"
    assert phases == [*deciding.split(), "rewrite", "verification", "latency"]
    assert ("calibration", 18, 18) in told
