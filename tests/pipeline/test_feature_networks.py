"""Feature statistics through the product: what goes, at which tensors it is looked at, and how it is merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support.bodies import IFS, build_bodies, samples
from support.idioms import CONVOLUTIONAL, Idiom
from support.idioms_attention import ATTENTIONS

import onnxpfp
from onnxpfp.errors import OptionError
from onnxpfp.score.feature_statistics import FeatureStatistics

Array = NDArray[Any]

READER = """g (float[N,4,2,2] x) => (float[N,3,2,2] y) {
    a = Conv(x, w1)
    y = Conv(a, w2, b2)
}"""
"""Its second convolution reads the input as it is."""
TWINS = """g (float[N,2,6,6] x) => (float[N,3,3,3] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1)
    r = Relu(a)
    y = Conv <pads = [1,1,1,1], strides = [2,2]> (r, w2)
}"""
"""The second half of its filters looks at the second half of the input: by the weights they have nothing in common."""
RESIDUAL = """g (float[N,3,6,6] x) => (float[N,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1)
    r = Relu(a)
    b = Conv <pads = [1,1,1,1]> (r, w2)
    c = Relu(b)
    d = Conv <pads = [1,1,1,1]> (c, w3)
    n = BatchNormalization(d, scale, shift, mean, variance)
    z = Add(r, n)
    q = Relu(z)
    e = Conv(q, w4)
    p = GlobalAveragePool(e)
    f = Flatten(p)
    y = Gemm(f, w5)
}"""


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    path = nets.SHARED / "oracles" / "oracles.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text())["B"]


def reader() -> ModelProto:
    return nets.build(READER, {"w1": np.eye(4).reshape(4, 4, 1, 1), "w2": (3, 4, 1, 1), "b2": (3,)})


def twins() -> ModelProto:
    """Filters 3, 4 and 5 are multiples of 0, 1 and 2, of an input that is the first one again."""
    filters = np.zeros((6, 2, 3, 3))
    filters[:3, 0] = nets.noise(3, 3, 3, seed=2)
    filters[3:, 1] = filters[:3, 0] * np.array([2.0, 0.5, 3.0])[:, None, None]
    return nets.build(TWINS, {"w1": filters, "w2": (3, 6, 3, 3)})


def residual() -> ModelProto:
    shapes: dict[str, Any] = {
        "w1": (6, 3, 3, 3),
        "w2": (5, 6, 3, 3),
        "w3": (6, 5, 3, 3),
        "w4": (7, 6, 1, 1),
        "w5": (7, 4),
    }
    # The first channel varies most before the activation, and is mostly zero behind it.
    norm: dict[str, Any] = {
        "scale": [30, 9, 12, 2, 6, 15],
        "shift": [-200, 1, 2, 0, 1, 2],
        "mean": [1, 0, 1, 0, 1, 0],
        "variance": [1e4] * 6,
    }
    return nets.build(RESIDUAL, shapes | {name: np.array(numbers) for name, numbers in norm.items()})


def prune(model: ModelProto, x: Array, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(
        model, calibration={"x": x}, **({"score": "feature-statistics", "no_latency": True, "threads": 1} | options)
    )


def kept(result: onnxpfp.Result, weight: str, axis: int = 0, count: int = 4) -> list[int]:
    entry = result.plan.entries.get(weight)
    return list(range(count)) if entry is None else list(entry.keep[axis])


@pytest.mark.shared
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("maps", ["after", "before"])
@pytest.mark.parametrize(
    ("settings", "stays"),
    [
        ({"dfs": 0.25, "sfs": 0.95}, "keep_dfs25_sfs95"),
        ({"dfs": 0.25, "sfs": 0.44}, "keep_dfs25_sfs44"),
        ({"sfs": 0.95}, [0, 2, 3]),
        ({"dfs_threshold": 0.5, "sfs": 0.95}, "keep_dfs25_sfs95"),
    ],
)
def test_the_oracle(oracle: Any, settings: Any, stays: Any, maps: str, size: int, order: list[int]) -> None:
    x = np.array(oracle["F"], np.float32)[order]
    result = prune(reader(), x, batch_size=size, maps=maps, **settings)
    assert kept(result, "w1") == (oracle[stays] if isinstance(stays, str) else stays)
    report = result.report
    assert report.allocation == "criterion"
    assert report.target == {}
    assert report.settings == {**settings, "maps": maps}
    assert report.alignment is not None
    assert report.alignment.step == 1


@pytest.mark.shared
@pytest.mark.parametrize("keep", [0.5, 0.75])
def test_with_a_target_the_oracle_only_ranks(oracle: Any, keep: float) -> None:
    x = np.array(oracle["F"], np.float32)
    result = prune(reader(), x, keep_macs=keep, sfs=0.95, dfs=0.25, round_to=1)
    assert kept(result, "w1") == ([2, 3] if keep == 0.5 else [1, 2, 3])
    assert result.report.allocation != "criterion"
    # By deviation alone the second channel is no twin, and the first still varies least.
    assert kept(prune(reader(), x, keep_macs=0.5, round_to=1), "w1") == [2, 3]
    assert kept(prune(reader(), x, keep_macs=0.75, sfs=0.95, round_to=1), "w1") == [0, 2, 3]


def test_constant_maps_that_are_not_zero_go_into_the_bias() -> None:
    x = nets.noise(5, 4, 2, 2)
    x[:, 1] = 3.0
    result = prune(reader(), x, dfs=0.25)
    assert kept(result, "w1") == [0, 2, 3]
    np.testing.assert_allclose(nets.run(result.model, x), nets.run(reader(), x), atol=1e-5)
    assert result.report.compensated == ("node_y",)
    bare = prune(reader(), x, dfs=0.25, compensate="none")
    assert np.abs(nets.run(bare.model, x) - nets.run(reader(), x)).max() > 0.1
    # They are like maps of one sign, and still no other channel takes them over.
    x[:, 0] = np.abs(x[:, 0]) + 5
    merged = prune(reader(), x, dfs=0.25, sfs=0.9, compensate="merge")
    assert kept(merged, "w1") == [0, 2, 3]
    assert merged.report.merged == ()
    np.testing.assert_allclose(nets.run(merged.model, x), nets.run(reader(), x), atol=1e-5)


def test_a_constant_map_is_no_multiple_of_one_that_is_like_it() -> None:
    x = np.abs(nets.noise(5, 4, 2, 2)) + 2
    x[:, 1] = 3.0
    result = prune(reader(), x, sfs=0.9, compensate="merge")
    gone = {*range(4)} - {*kept(result, "w1")}
    assert 1 in gone
    alone = prune(reader(), x, sfs=0.9, compensate="bias")
    errors = [np.square(nets.run(each.model, x) - nets.run(reader(), x)).mean() for each in (result, alone)]
    # Merged it would leave as much as its partner varies.
    assert errors[0] <= errors[1] + 1e-9


def test_multiples_of_channels_merge_without_a_trace() -> None:
    x = np.repeat(nets.noise(8, 1, 6, 6), 2, axis=1)
    result = prune(twins(), x, sfs=0.99, compensate="merge")
    # Of each pair the one that varies more stays.
    assert kept(result, "w1") == [1, 3, 5]
    assert result.report.merged == ("node_y",)
    assert "merged into similar ones" in "".join(map(str, result.report.page(full=True, wide=True)))
    np.testing.assert_allclose(nets.run(result.model, x), nets.run(twins(), x), atol=1e-5)
    for compensate in ("none", "bias"):
        other = prune(twins(), x, sfs=0.99, compensate=compensate)
        assert kept(other, "w1") == [1, 3, 5]
        assert np.abs(nets.run(other.model, x) - nets.run(twins(), x)).max() > 0.1


def test_what_merging_leaves_of_the_mean_goes_into_the_bias() -> None:
    # Of two samples none is held out, so the means are those of both.
    x = np.repeat(nets.noise(2, 1, 6, 6), 2, axis=1)
    x[:, 1] += 0.2 * nets.noise(2, 6, 6, seed=3) + 0.1
    result = prune(twins(), x, sfs=0.9, compensate="merge")
    assert result.report.merged == ("node_y",)
    assert result.report.compensated == ("node_y",)
    assert result.report.samples == 2
    means = [nets.run(model, x).mean(axis=(0, 2, 3)) for model in (result.model, twins())]
    np.testing.assert_allclose(*means, atol=1e-5)


def test_a_target_takes_twins_first_and_merges_what_is_alike() -> None:
    x = np.repeat(nets.noise(8, 1, 6, 6), 2, axis=1)
    result = prune(twins(), x, sfs=0.99, keep_macs=0.7, round_to=1, compensate="merge")
    assert len(kept(result, "w1")) == 4
    assert {1, 3, 5} <= set(kept(result, "w1"))
    np.testing.assert_allclose(nets.run(result.model, x), nets.run(twins(), x), atol=1e-5)


def test_a_plan_of_merged_channels_is_replayed() -> None:
    x = np.repeat(nets.noise(8, 1, 6, 6), 2, axis=1)
    result = prune(twins(), x, sfs=0.99, compensate="merge")
    again = prune(twins(), x, sfs=0.99, compensate="merge", from_plan=result.plan)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert again.report.method == "plan"


def test_the_maps_of_a_residual_stream_are_those_that_its_consumers_read() -> None:
    model, x = residual(), nets.noise(9, 3, 6, 6)
    values = nets.values(model, {"x": x})
    after = np.mean([values[name].std(axis=(2, 3)).mean(0) for name in ("r", "q")], axis=0)
    before = np.mean([values[name].std(axis=(2, 3)).mean(0) for name in ("a", "n")], axis=0)
    assert np.argsort(after)[:3].tolist() != np.argsort(before)[:3].tolist()
    for maps, mstd in (("after", after), ("before", before)):
        result = prune(model, x, dfs=0.5, maps=maps)
        assert kept(result, "w1") == sorted(np.argsort(mstd)[3:].tolist())
        assert kept(result, "w3") == kept(result, "w1")


def test_similar_channels_of_a_residual_stream() -> None:
    model, x = residual(), nets.noise(9, 3, 6, 6)
    values = nets.values(model, {"x": x})
    rows = np.concatenate([np.moveaxis(values[name], 1, 0).reshape(6, -1) for name in ("r", "q")], axis=1)
    cosine = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    pairs = np.sort(cosine[np.triu_indices(6, 1)])
    # A cosine between the largest and the next finds one pair in this group.
    result = prune(model, x, sfs=float(pairs[-2:].mean()))
    mstd = np.mean([values[name].std(axis=(2, 3)).mean(0) for name in ("r", "q")], axis=0)
    pair = np.argwhere(np.triu(cosine, 1) == pairs[-1])[0]
    goes = pair[0] if mstd[pair[0]] < mstd[pair[1]] else pair[1]
    assert kept(result, "w1", count=6) == sorted({*range(6)} - {int(goes)})


def test_features_behind_a_flatten_are_one_map() -> None:
    model = nets.build(
        """g (float[N,3,5,5] x) => (float[N,4] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1)
            r = Relu(a)
            f = Flatten(r)
            y = Gemm(f, w2)
        }""",
        {"w1": (6, 3, 3, 3), "w2": (150, 4)},
    )
    x = nets.noise(7, 3, 5, 5)
    mstd = nets.values(model, {"x": x})["r"].std(axis=(2, 3)).mean(0)
    assert kept(prune(model, x, dfs=0.5), "w1") == sorted(np.argsort(mstd)[3:].tolist())


def test_the_least_and_a_multiple_of_channels_stay() -> None:
    model, x = nets.chain(), nets.noise(6, 3, 8, 8)
    assert [group.kept for group in prune(model, x, dfs=0.9).report.groups] == [1, 1]
    assert [group.kept for group in prune(model, x, dfs=0.9, min_channels=3).report.groups] == [3, 3]
    rounded = prune(model, x, dfs=0.9, min_channels=3, round_to=4)
    assert [group.kept for group in rounded.report.groups] == [4, 4]
    # What comes back to fill a multiple is what would have gone last.
    mstd = nets.values(model, {"x": x})["r"].std(axis=(2, 3)).mean(0)
    assert kept(rounded, "w1") == sorted(np.argsort(mstd)[4:].tolist())


def test_where_nothing_is_alike_the_file_stays_and_the_report_says_how_near_it_is() -> None:
    model, x = nets.chain(), nets.noise(6, 3, 8, 8)
    result = prune(model, x, sfs=0.999)
    assert result.unchanged is not None
    assert any("--sfs 0.999 finds no two channels alike: the largest cosine" in note for note in result.report.notes)


def test_maps_before_an_activation_need_a_layer_that_puts_them_out() -> None:
    model = nets.build(
        """g (int64[N,5] i) => (float[N,5,4] y) {
            e = Gather(table, i)
            r = Relu(e)
            y = MatMul(r, w)
        }""",
        {"table": (9, 6), "w": (6, 4)},
    )
    ids = np.random.default_rng(0).integers(0, 9, (6, 5))
    options: dict[str, Any] = {"score": "feature-statistics", "dfs": 0.5, "no_latency": True}
    assert onnxpfp.prune(model, calibration={"i": ids}, **options).report.groups[0].kept == 3
    with pytest.raises(OptionError, match="no Conv, Gemm or MatMul of the file brings forth the channels of 'table'"):
        onnxpfp.prune(model, calibration={"i": ids}, maps="before", **options)


def test_convolution_groups_have_no_outputs_in_common_to_merge_in() -> None:
    model = nets.build(
        """g (float[N,2,6,6] x) => (float[N,4,6,6] y) {
            a = Conv(x, w1)
            r = Relu(a)
            y = Conv <group = 2> (r, w2)
        }""",
        {"w1": np.array([[1.0, 0], [2, 0], [0, 3], [0, 0.5]]).reshape(4, 2, 1, 1), "w2": (4, 2, 1, 1)},
    )
    x = np.repeat(nets.noise(8, 1, 6, 6), 2, axis=1)
    result = prune(model, x, sfs=0.99, compensate="merge")
    assert result.report.oracle.error < 1e-5


def test_a_trained_network_in_two_shapes_of_its_data(tmp_path: Path) -> None:
    """The same samples one by one and at once, before and after: the same widths."""
    path, x = nets.network("resnet"), nets.fmnist("calibration", 48)
    name = onnx.load(path).graph.input[0].name
    options: dict[str, Any] = {"score": "feature-statistics", "dfs": 0.2, "sfs": 0.8, "no_latency": True, "threads": 1}
    one, many = (onnxpfp.prune(path, calibration={name: x}, batch_size=size, **options) for size in (1, 32))
    assert [group.kept for group in one.report.groups] == [group.kept for group in many.report.groups]
    assert all(group.kept < group.channels for group in one.report.groups)
    assert one.report.compensation == "lstsq"


@pytest.mark.parametrize("idiom", [*CONVOLUTIONAL, *ATTENTIONS], ids=str)
@pytest.mark.parametrize("maps", ["after", "before"])
def test_every_way_to_put_layers_together(idiom: Idiom, maps: str) -> None:
    """What is merged is in the masked original too, which must compute the same."""
    options: dict[str, Any] = {"score": "feature-statistics", "maps": maps, "dfs": 0.3, "sfs": 0.3}
    result = onnxpfp.prune(
        idiom.model(), calibration="random", samples=6, compensate="merge", no_latency=True, threads=1, **options
    )
    assert result.report.oracle.error <= result.report.oracle.tolerance
    assert any(group.kept < group.channels for group in result.report.groups)


@pytest.mark.parametrize("name", IFS)
def test_widths_of_bodies_are_set_in_each(name: str) -> None:
    model = build_bodies(IFS[name][0])
    options: dict[str, Any] = {"score": "feature-statistics", "dfs": 0.5, "no_latency": True, "threads": 1}
    result = onnxpfp.prune(model, calibration=samples(name), **options)
    assert result.report.groups
    assert all(group.kept == group.channels - group.channels // 2 for group in result.report.groups)


def test_an_object_has_its_own_settings_and_options_do_not_change_them() -> None:
    model, x = nets.chain(), nets.noise(6, 3, 8, 8)
    by_name = prune(model, x, keep_macs=0.6, sfs=0.6, maps="before")
    by_object = prune(model, x, keep_macs=0.6, score=FeatureStatistics(sfs=0.6, maps="before"))
    assert by_name.plan.entries == by_object.plan.entries
    with pytest.raises(OptionError, match="sfs goes with score feature-statistics, not score FeatureStatistics"):
        prune(model, x, score=FeatureStatistics(sfs=0.6), sfs=0.7)
