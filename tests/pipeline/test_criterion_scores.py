"""Every criterion on a graph with coupled groups, against its definition on that graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from support.graphs import build
from support.idioms import CONVOLUTIONAL, SEQUENTIAL, Idiom
from support.idioms_attention import ATTENTIONS

from onnxpfp.calibrate.collect import calibrate
from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import OptionError
from onnxpfp.linear import describe as describe_module
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.reach import reaches_of
from onnxpfp.model import load as load_module
from onnxpfp.model.load import load
from onnxpfp.options import SCORES, Options
from onnxpfp.pipeline import measurements as measurements_module
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.criteria import criterion_of
from onnxpfp.pipeline.criterion_scores import criterion_scores
from onnxpfp.pipeline.measurements import Measurements, channels_first
from onnxpfp.pipeline.reading import read_data

Floats = NDArray[np.float64]
Arrays = dict[str, Floats]

NET = """g (float[N,2,6,6] x) => (y) <
    float[6,2,3,3] w1, float[6] b1, float[6] s1, float[6] t1, float[6] m1, float[6] v1,
    float[8,6,3,3] w2, float[8,6,1,1] w3, float[8] s2, float[8] t2, float[8] m2, float[8] v2, float[3,8] w4
> {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    n = BatchNormalization(a, s1, t1, m1, v1)
    r = Relu(n)
    c = Conv<pads=[1,1,1,1]>(r, w2)
    d = Conv(r, w3)
    z = Add(c, d)
    o = BatchNormalization(z, s2, t2, m2, v2)
    q = Relu(o)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w4)
}"""
"""Two groups: w1 with one producer (and a folded normalization) and two consumers; w2 and w3 coupled by a sum."""
DATA = nets.noise(12, 2, 6, 6)


def score(name: str, model: ModelProto | Path, data: Any = DATA, **options: Any) -> dict[str, Floats]:
    """Return the scores of every group by its name."""
    statistics = options.pop("statistics", False)
    chosen = Options(**({"threads": 1} | options))
    source = load(model)
    _, session, requests = open_model(source, chosen)
    read = read_data(source, session, data, chosen)
    analysis = analyze(source, read, chosen)
    ops = linear_ops(analysis)
    # What is defined on data is compared on all of them, none held out.
    samples = read.samples if data is None else load_samples(data, input_specs(source.model))
    measurements = Measurements(analysis, ops, samples, read.batch_size, requests, chosen, None)
    values = criterion_scores(
        criterion_of(name),
        analysis,
        ops,
        None if data is None else measurements,
        seed=chosen.seed,
        statistics=calibrate(analysis.source.model, ops, samples, threads=1) if statistics else None,
        reach=reaches_of(analysis).values,
    )
    assert values.shape == (analysis.graph.count + 1,)
    assert values.dtype == np.float64
    assert values[0] == 0
    assert np.isfinite(values).all()
    assert values.min() >= 0
    return {group.name: values[group.channels] for group in analysis.graph.groups}


def long_rows(w: Arrays) -> tuple[Floats, Floats]:
    folded = w["w1"] * (w["s1"] / np.sqrt(w["v1"] + 1e-5))[:, None, None, None]
    return folded.reshape(6, -1), np.concatenate([w["w2"].reshape(8, -1), w["w3"].reshape(8, -1)], axis=1)


def with_columns(w: Arrays) -> tuple[Floats, Floats]:
    one, two = long_rows(w)
    columns = [np.moveaxis(w[name], 1, 0).reshape(6, -1) for name in ("w2", "w3")]
    return np.concatenate([one, *columns], axis=1), np.concatenate([two, w["w4"].T], axis=1)


def share(values: Floats) -> Floats:
    return np.asarray(values / values.sum(), np.float64)


def l1(w: Arrays, _: Arrays) -> list[Floats]:
    return [share(np.abs(rows).sum(1)) for rows in long_rows(w)]


def l2(w: Arrays, _: Arrays) -> list[Floats]:
    return [share(np.linalg.norm(rows, axis=1)) for rows in with_columns(w)]


def fpgm(w: Arrays, _: Arrays) -> list[Floats]:
    return [share(np.array([np.linalg.norm(rows - row, axis=1).sum() for row in rows])) for rows in long_rows(w)]


def lamp(w: Arrays, _: Arrays) -> list[Floats]:
    squares = [np.square(rows).sum(1) for rows in long_rows(w)]
    return [np.array([s / each[each >= s].sum() for s in each]) for each in squares]


def bn_scale(w: Arrays, _: Arrays) -> list[Floats]:
    return [np.abs(w["s1"]), np.abs(w["s2"])]


def wanda(w: Arrays, v: Arrays) -> list[Floats]:
    def of(weight: Floats, data: Floats) -> Floats:
        norms = np.linalg.norm(np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1), axis=1)
        return share(norms * np.sqrt(np.square(np.moveaxis(data, 1, 0).reshape(data.shape[1], -1)).sum(1)))

    return [of(w["w2"], v["r"]) + of(w["w3"], v["r"]), of(w["w4"], v["f"])]


def by_maps(measure: Callable[[Floats], list[float]]) -> Callable[[Arrays, Arrays], list[Floats]]:
    """The first group is read twice; the second by a Gemm, where a map is one number."""

    def expected(_: Arrays, v: Arrays) -> list[Floats]:
        one, two = (share(np.mean([measure(sample) for sample in v[name]], axis=0)) for name in ("r", "f"))
        return [2 * one, two]

    return expected


def ranks(maps: Floats) -> list[float]:
    return [
        float(np.linalg.matrix_rank(each.astype(np.float32).reshape(6 if maps.ndim > 1 else 1, -1))) for each in maps
    ]


def firing(maps: Floats) -> list[float]:
    return [float((each > 0).mean()) for each in maps]


def nuclear(maps: Floats) -> list[float]:
    rows = maps.reshape(len(maps), -1)
    return [float(np.linalg.norm(rows, "nuc") - np.linalg.norm(np.delete(rows, j, 0), "nuc")) for j in range(len(rows))]


def thinet(w: Arrays, v: Arrays) -> list[Floats]:
    """With every position of the output, which the test asks for."""
    return [greedy(sum_of_grams(outputs)) for outputs in contributions(w, v)]


def contributions(w: Arrays, v: Arrays) -> list[list[Floats]]:
    """What every channel adds to the outputs of both groups' consumers, (N, O, ..., C) each."""
    padded = np.pad(v["r"], [(0, 0), (0, 0), (1, 1), (1, 1)])
    wide = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    both = [np.einsum("nchwab,ocab->nohwc", wide, w["w2"]), np.einsum("nchw,oc->nohwc", v["r"], w["w3"][:, :, 0, 0])]
    return [both, [np.einsum("nc,oc->noc", v["f"], w["w4"])]]


def sum_of_grams(contributions: list[Floats]) -> Floats:
    flat = [each.reshape(-1, each.shape[-1]) for each in contributions]
    return np.asarray(sum(each.T @ each / np.square(each).sum() for each in flat))


def greedy(q: Floats) -> Floats:
    gone: list[int] = []
    while len(gone) < len(q):
        cost = {j: q[np.ix_([*gone, j], [*gone, j])].sum() for j in range(len(q)) if j not in gone}
        gone.append(min(cost, key=lambda j: cost[j]))
    return share(np.argsort(gone).astype(np.float64))


def mean_share(w: Arrays, v: Arrays) -> list[Floats]:
    """With every position of the output, which the test asks for."""
    return [sum_of_shares(outputs) for outputs in contributions(w, v)]


def sum_of_shares(outputs: list[Floats]) -> Floats:
    every = [each.reshape(-1, *each.shape[-2:]) for each in (np.moveaxis(each, 1, -2) for each in outputs)]
    return np.asarray(sum(np.square(y).sum((0, 1)) / np.square(y.sum(-1)).sum() for y in every))


def deviations(_: Arrays, v: Arrays) -> list[Floats]:
    """The first group is read twice, at one tensor; the second where a map is one number."""
    return [share(v["r"].std(axis=(2, 3)).mean(0)), share(v["f"].std(axis=0))]


def worst_cases(w: Arrays) -> list[list[Floats]]:
    """What every channel can add to the outputs of each consumer, (O, C), in units of what its producers read."""
    factor = w["s1"] / np.sqrt(w["v1"] + 1e-5)
    one = np.sqrt(np.square(long_rows(w)[0]).sum(1) + np.square((w["b1"] - w["m1"]) * factor + w["t1"]))
    factor = w["s2"] / np.sqrt(w["v2"] + 1e-5)
    added = sum(np.linalg.norm(w[name].reshape(8, -1), axis=1) for name in ("w2", "w3"))
    two = np.abs(factor) * added + np.abs(w["t2"] - w["m2"] * factor)
    return [[np.abs(w[name]).sum((2, 3)) * one for name in ("w2", "w3")], [np.abs(w["w4"]) * two]]


def coreset(w: Arrays, _: Arrays) -> list[Floats]:
    return [np.concatenate(each).max(0) for each in worst_cases(w)]


def coreset_share(w: Arrays, _: Arrays) -> list[Floats]:
    return [np.concatenate([part / part.sum(1, keepdims=True) for part in each]).max(0) for each in worst_cases(w)]


EXPECTED: dict[str, Callable[[Arrays, Arrays], list[Floats]]] = {
    "coreset": coreset,
    "coreset-share": coreset_share,
    "l1": l1,
    "l2": l2,
    "fpgm": fpgm,
    "lamp": lamp,
    "bn-scale": bn_scale,
    "wanda": wanda,
    "hrank": by_maps(ranks),
    "apoz": by_maps(firing),
    "chip": by_maps(nuclear),
    "thinet": thinet,
    "mean-share": mean_share,
    "feature-statistics": deviations,
}


BASELINES = {name: criterion_of(name) for name in SCORES if name not in {"pfp", "sipp", "reconstruction", "energy"}}


def test_every_baseline_is_here() -> None:
    assert {*EXPECTED, "random"} == BASELINES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_against_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements_module, "POINTS", 36)
    monkeypatch.setattr(measurements_module, "SHARE_POINTS", 36)
    model = build(NET)
    weights = {key: array.astype(np.float64) for key, array in nets.weights(model).items()}
    values = {key: array.astype(np.float64) for key, array in nets.values(model, {"x": DATA}).items()}
    found = score(name, model)
    one, two = EXPECTED[name](weights, values)
    assert found.keys() == {"w1", "w2"}
    np.testing.assert_allclose(found["w1"], one, rtol=2e-4)
    np.testing.assert_allclose(found["w2"], two, rtol=2e-4)


def test_random_follows_the_seed() -> None:
    one, again, other = (score("random", build(NET), None, seed=seed) for seed in (3, 3, 4))
    for group, values in one.items():
        np.testing.assert_array_equal(values, again[group])
        assert (values != other[group]).all()


@pytest.mark.parametrize("name", [name for name, criterion in BASELINES.items() if criterion.needs_data])
def test_batches_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements_module, "POINTS", 36)
    monkeypatch.setattr(measurements_module, "SHARE_POINTS", 36)
    whole, parts = (score(name, build(NET), batch_size=size) for size in (12, 5))
    for group, values in whole.items():
        np.testing.assert_allclose(values, parts[group], rtol=1e-4)


def test_statistics_that_are_there_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = score("wanda", build(NET))
    monkeypatch.delattr(measurements_module, "run_observers")
    for group, values in score("wanda", build(NET), statistics=True).items():
        np.testing.assert_allclose(values, streamed[group], rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, criterion in BASELINES.items() if criterion.needs_data])
def test_without_data(name: str) -> None:
    with pytest.raises(OptionError, match=f"--score {name} measures the data, and none are given") as caught:
        score(name, build(NET), None)
    assert caught.value.hint == "give --calib-data FILE.npz"


@pytest.mark.parametrize("name", [name for name, criterion in BASELINES.items() if not criterion.needs_data])
def test_weights_need_no_data(name: str) -> None:
    for group, values in score(name, build(NET), None).items():
        np.testing.assert_array_equal(values, score(name, build(NET))[group])


def test_a_folded_normalization_is_named() -> None:
    with pytest.raises(OptionError, match="no BatchNormalization behind 'w1': it is folded") as caught:
        score("bn-scale", nets.chain(), None)
    assert "--exclude 'w1'" in caught.value.hint


IDIOMS = (*CONVOLUTIONAL, *SEQUENTIAL, *ATTENTIONS[:3])


@pytest.mark.parametrize("idiom", IDIOMS, ids=str)
def test_every_network_has_scores(idiom: Idiom) -> None:
    model = idiom.model()
    for name in BASELINES.keys() - {"bn-scale"}:
        assert sum(values.sum() for values in score(name, model, "random", samples=4).values()) > 0, name


def test_filters_of_embeddings_and_recurrences_count() -> None:
    model = build("""g (int64[N,5] x) => (y) <float[9,6] table, float[6,4] w1, float[4,3] w2> {
        e = Gather(table, x)
        h = MatMul(e, w1)
        r = Relu(h)
        y = MatMul(r, w2)
    }""")
    table = nets.weights(model)["table"].astype(np.float64)
    np.testing.assert_allclose(score("l1", model, "random")["table"], share(np.abs(table).sum(0)), rtol=1e-6)


PLAIN = """g (float[N,4] x) => (y) <float[4,6] w1, float[6,5] w2> {
    a = MatMul(x, w1)
    r = Relu(a)
    y = MatMul(r, w2)
}"""
INTEGER = """g (float[N,4] x) => (y) <float[4,6] w1, int8[6,5] w2, float scale = {0.02}, uint8 known = {7}> {
    a = MatMul(x, w1)
    r = Relu(a)
    QUANTIZE
    i = MatMulInteger(q, w2, zero)
    y = Cast<to=1>(i)
}"""
ZERO_POINTS = {
    "computed": "q, sq, zero = DynamicQuantizeLinear(r)",
    "stored": "q = QuantizeLinear(r, scale, known)\nzero = Identity(known)",
}


@pytest.mark.parametrize("name", ["wanda", "apoz", "chip", "thinet", "mean-share"])
@pytest.mark.parametrize("zero", ZERO_POINTS)
def test_quantized_data_count_minus_their_zero_point(name: str, zero: str) -> None:
    # The scale of one feed drops out, so the scores are those of the same network in floating point.
    model, plain = build(INTEGER.replace("QUANTIZE", ZERO_POINTS[zero])), build(PLAIN)
    data = nets.noise(1, 40, 4)
    for tensor in plain.graph.initializer:
        same = nets.weights(model)[tensor.name].astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(same, tensor.name))
    one, two = score(name, model, data), score(name, plain, data)
    np.testing.assert_allclose(one["w1"], two["w1"], atol=0.02)


@pytest.mark.parametrize("name", ["l2", "wanda", "thinet", "mean-share"])
def test_weights_in_files_have_the_same_scores(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = score(name, build(NET))
    path = tmp_path / "m.onnx"
    onnx.save(build(NET), path, save_as_external_data=True, location="m.data", size_threshold=0)
    monkeypatch.setattr(load_module, "IN_MEMORY", 0)
    monkeypatch.setattr(load_module, "PART_FROM", 1)
    monkeypatch.setattr(describe_module, "EXTERNAL_FROM", 1)
    monkeypatch.setattr("onnxpfp.arrays.CHUNK_BYTES", 64)
    for group, values in score(name, path).items():
        np.testing.assert_allclose(values, held[group], rtol=1e-5)


def test_two_activations_count_as_weights_of_one() -> None:
    model = build("""g (float[N,4,5] x) => (y) <float[5,6] wq, float[5,6] wk> {
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        t = Transpose<perm=[0,2,1]>(k)
        y = MatMul(q, t)
    }""")
    data = nets.noise(8, 4, 5)
    q = nets.values(model, {"x": data})["q"].astype(np.float64).reshape(-1, 6)
    found = {name: score(name, model, data)["wq"] for name in ("wanda", "thinet", "mean-share", "l2")}
    np.testing.assert_allclose(found["wanda"], share(np.linalg.norm(q, axis=0)), rtol=1e-5)
    np.testing.assert_allclose(found["thinet"], greedy(q.T @ q), rtol=1e-9)
    np.testing.assert_allclose(found["mean-share"], np.square(q).mean(0) / np.square(q.sum(1)).mean(), rtol=1e-5)
    rows = np.concatenate([nets.weights(model)[name].astype(np.float64) for name in ("wq", "wk")])
    np.testing.assert_allclose(found["l2"], share(np.linalg.norm(rows, axis=0)), rtol=1e-6)


def test_channels_first() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    assert channels_first(array, 1).shape == (2, 3, 4)
    np.testing.assert_array_equal(channels_first(array, 2)[1, 3], array[1, :, 3])
    assert channels_first(array, 0).shape == (3, 2, 4)
    np.testing.assert_array_equal(channels_first(array, 0)[1], array[:, 1])
    assert channels_first(array[0, 0], 0).shape == (1, 4)
    assert np.shares_memory(channels_first(array, 2), array)
