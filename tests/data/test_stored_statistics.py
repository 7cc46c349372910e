"""How far samples are from the statistics that the first BatchNormalizations store."""

from __future__ import annotations

import tracemalloc
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxpfp.data.stored_statistics import FAR, LEAST_TO_TELL, StoredStatistics

TEXT = """g (float[N,3,H,W] x) => (float[N,5,H,W] y) {
    c = Conv (x, w)
    b = BatchNormalization <epsilon = 0.001> (c, scale, shift, mean, var)
    r = Relu(b)
    d = Conv (r, v)
    y = BatchNormalization (d, scale2, shift2, mean2, var2)
}"""
NORMALISED = "g (float[N,3,H,W] x) => (float[N,3,H,W] y) { y = BatchNormalization (x, scale, shift, mean, var) }"
SHAPES = {"w": (4, 3, 1, 1), "v": (5, 4, 1, 1), "scale": (4,), "shift": (4,), "scale2": (5,), "shift2": (5,)}


def model_of(mean: np.ndarray, var: np.ndarray, text: str = TEXT) -> Any:
    rest = {"mean2": np.full(5, 900.0), "var2": np.ones(5)}
    return nets.build(text, {**SHAPES, "mean": mean, "var": var, **rest})


def distance(model: Any, *arrays: np.ndarray) -> float:
    statistics = StoredStatistics.of(model)
    assert statistics is not None
    return statistics.distance({"x": array} for array in arrays)[0]


def test_the_distance_is_that_of_normal_distributions() -> None:
    x = nets.noise(6, 3, 4, 5)
    mean, var = np.array([0.5, 0, -1, 2]), np.array([1.0, 4, 0.25, 9])
    model = model_of(mean, var)
    conv = nets.values(model, {"x": x})["c"].astype(np.float64)
    a, b, eps = conv.mean((0, 2, 3)), conv.var((0, 2, 3)), 0.001
    ratio = (b + eps) / (var + eps)
    wanted = ((ratio + (a - mean) ** 2 / (var + eps) - 1 - np.log(ratio)) / 2).mean()
    assert distance(model, x) == pytest.approx(wanted, rel=1e-5)
    # In how many runs, and of which sizes, makes no difference.
    assert distance(model, x[:2], x[2:]) == pytest.approx(wanted, rel=1e-5)
    assert distance(model, x[..., :2], x[..., 2:]) == pytest.approx(wanted, rel=1e-5)


def test_the_first_one_tells_and_names_itself() -> None:
    statistics = StoredStatistics.of(model_of(np.ones(4), np.ones(4)))
    assert statistics is not None
    assert [*statistics.stored] == ["c"]
    assert [node.op_type for node in statistics.model.graph.node] == ["Conv"]
    assert [tensor.name for tensor in statistics.model.graph.initializer] == ["w"]
    assert statistics.distance([{"x": nets.noise(2, 3, 4, 4)}])[1] == "node_b"


def test_an_input_may_be_normalised_itself() -> None:
    model = nets.build(NORMALISED, {"scale": (3,), "shift": (3,), "mean": np.full(3, 5.0), "var": np.ones(3)})
    assert distance(model, nets.noise(64, 3, 8, 8) + 5) < 0.01
    assert distance(model, nets.noise(64, 3, 8, 8)) > 10


@pytest.mark.parametrize("why", ["folded", "untrained", "training", "computed"])
def test_what_tells_nothing(why: str) -> None:
    mean, var = np.ones(4), np.ones(4)
    model: Any = nets.chain()
    if why == "untrained":
        model = model_of(np.zeros(4), var)
        del model.graph.node[-1]
    elif why == "training":
        model = model_of(mean, var, TEXT.replace("epsilon = 0.001", "training_mode = 1"))
    elif why == "computed":
        text = TEXT.replace("c = Conv (x, w)", "c = Conv (x, w) m = ReduceMean <axes = [0, 2, 3], keepdims = 0> (c)")
        model = model_of(mean, var, text.replace("shift, mean", "shift, m"))
    assert StoredStatistics.of(model) is None


CASES = {
    "like training": lambda x: x,
    "0 to 255": lambda x: (x * 0.353 + 0.286) * 255,
    "0 to 1": lambda x: x * 0.353 + 0.286,
    "divided twice": lambda x: (x * 0.353 + 0.286) / 255,
}


@pytest.mark.parametrize("name", nets.NETWORKS)
@pytest.mark.parametrize("case", CASES)
def test_trained_networks_know_their_data(name: str, case: str) -> None:
    statistics = StoredStatistics.of(onnx.load(nets.network(name)))
    assert statistics is not None
    images = CASES[case](nets.fmnist("calibration", 64)).astype(np.float32)
    near = case == "like training"
    for count in (LEAST_TO_TELL, 64):
        found, _ = statistics.distance([{"images": images[:count]}])
        assert (found <= FAR) == near, found
    assert (found <= FAR / 8) == near


@pytest.mark.shared
@pytest.mark.skipif(not nets.SHARED.exists(), reason="needs ../shared")
@pytest.mark.parametrize("depth", [20, 56])
def test_cifar_networks_know_their_data(depth: int) -> None:
    model = onnx.load(nets.SHARED / "models" / f"cifar10_resnet{depth}_bn.onnx")
    statistics = StoredStatistics.of(model)
    assert statistics is not None
    with np.load(nets.SHARED / "data" / "cifar10_calib1k.npz") as file:
        pixels = file["images"][:64].transpose(0, 3, 1, 2) / np.float32(255)
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))
    name = model.graph.input[0].name
    assert statistics.distance([{name: (pixels - mean) / std}])[0] < FAR / 4
    for wrong in (pixels, pixels * 255, 2 * pixels - 1):
        assert statistics.distance([{name: wrong}])[0] > FAR


def test_statistics_in_constant_nodes() -> None:
    model = model_of(np.ones(4), np.ones(4))
    for tensor in model.graph.initializer:
        if tensor.name in {"mean", "var"}:
            node = onnx.helper.make_node(
                "Constant", [], [tensor.name], value=numpy_helper.from_array(np.ones(4, np.float32))
            )
            model.graph.node.insert(0, node)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in {"mean", "var"}]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    assert distance(model, nets.noise(4, 3, 4, 4)) == pytest.approx(
        distance(model_of(np.ones(4), np.ones(4)), nets.noise(4, 3, 4, 4))
    )


def test_samples_without_values_change_nothing() -> None:
    x, model = (
        nets.noise(6, 3, 4, 5),
        nets.build(NORMALISED, {"scale": (3,), "shift": (3,), "mean": (3,), "var": np.ones(3)}),
    )
    assert distance(model, x, x[..., :0]) == distance(model, x)
    assert distance(model, x[..., :0]) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_as_far_as_can_be(wrong: float) -> None:
    x = nets.noise(6, 3, 4, 5)
    x[2, 1, 0, 0] = wrong
    assert distance(model_of(np.ones(4), np.ones(4)), x) == np.inf


def test_no_more_than_a_sample_is_held_in_double_precision() -> None:
    model = nets.build(NORMALISED, {"scale": (3,), "shift": (3,), "mean": np.ones(3), "var": np.ones(3)})
    x = nets.noise(32, 3, 64, 64)
    statistics = StoredStatistics.of(model)
    assert statistics is not None
    tracemalloc.start()
    statistics.distance([{"x": x}])
    assert tracemalloc.get_traced_memory()[1] < x.nbytes
    tracemalloc.stop()
