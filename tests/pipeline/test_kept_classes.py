"""Classes that go: what is left of the outputs is what it was, and plans, metadata and targets go with it."""

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
from support import class_nets

import onnxpfp
from onnxpfp.errors import OptionError, PlanError

X = nets.noise(4, 3, 8, 8)


def outputs(model: ModelProto, x: NDArray[Any]) -> list[NDArray[Any]]:
    opened = nets.session(model)
    return [np.asarray(value) for value in opened.run(None, {opened.get_inputs()[0].name: x})]


def kept(model: ModelProto | Path, classes: Any, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(model, **{"keep_macs": 1.0, "keep_classes": classes, "no_latency": True} | options)


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_kept_scores_of_trained_networks_are_what_they_were(name: str) -> None:
    path, images = nets.network(name), nets.fmnist("test", 16)
    result = kept(path, "0,2,5-9")
    (before,), (after,) = outputs(onnx.load(path), images), outputs(result.model, images)
    assert after.shape == (16, 7)
    np.testing.assert_allclose(after, before[:, [0, 2, 5, 6, 7, 8, 9]], atol=1e-5 * abs(before).max())
    assert result.plan.classes is not None
    assert result.plan.classes.kept == (0, 2, 5, 6, 7, 8, 9)
    (output,) = result.model.graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == 7
    assert list(result.model.metadata_props) == list(onnx.load(path).metadata_props)


def test_boxes_stay_in_front_of_the_classes_of_a_yolov8() -> None:
    model = class_nets.yolov8()
    result = kept(model, [1, 4])
    (before,), (after,) = outputs(model, X), outputs(result.model, X)
    np.testing.assert_allclose(after, before[:, [0, 1, 2, 3, 5, 8]], atol=1e-5 * abs(before).max())
    weights = nets.weights(result.model)
    assert weights["wc1"].shape == weights["wc2"].shape == (2, 16, 1, 1)
    assert weights["wb1"].shape == (4, 16, 1, 1)
    report = result.report.classes
    assert report is not None
    assert [(axis.output, axis.axis, axis.first, axis.count, axis.length) for axis in report.axes] == [
        ("y", 1, 4, 5, 9)
    ]


@pytest.mark.parametrize("told", [{"class_names": ["cat", "dog", "bird"]}, {"class_axes": ["y:2:5"]}])
def test_objectness_stays_in_front_of_the_classes_of_a_yolov5(told: dict[str, Any]) -> None:
    model = class_nets.yolov5()
    result = kept(model, "2", **told)
    (before,), (after,) = outputs(model, X), outputs(result.model, X)
    np.testing.assert_allclose(after, before[:, :, [0, 1, 2, 3, 4, 7]], atol=1e-5 * abs(before).max())
    # Of every anchor a box, its objectness and one class.
    assert nets.weights(result.model)["wh1"].shape == (2 * 6, 16, 1, 1)


def test_a_layout_that_the_model_does_not_tell_is_not_guessed() -> None:
    with pytest.raises(OptionError, match="does not tell which indices are the classes") as failure:
        kept(class_nets.yolov5(), "2")
    assert "class_axes y:2:0:8" in failure.value.hint


def test_a_softmax_is_over_the_classes_that_stay() -> None:
    model = class_nets.softmax()
    result = kept(model, "0,3,4")
    (_, scores), (shares, left) = outputs(model, X), outputs(result.model, X)
    np.testing.assert_allclose(left, scores[:, [0, 3, 4]], atol=1e-5)
    exponentials = np.exp(scores[:, [0, 3, 4]])
    np.testing.assert_allclose(shares, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-6)
    report = result.report.classes
    assert report is not None
    assert report.renormalised == ("node_y",)
    assert 0 <= report.oracle.error < 1e-5


def test_what_decides_on_all_classes_keeps_them() -> None:
    text = class_nets.SOFTMAX.replace("float[N,6] y", "int64[N] y").replace(
        "Softmax <axis = 1>", "ArgMax <axis = 1, keepdims = 0>"
    )
    with pytest.raises(OptionError, match="no class can go: ArgMax 'node_y'"):
        kept(nets.build(text, class_nets.SOFTMAX_WEIGHTS), "0,3")


def test_scores_that_another_layer_reads_stay() -> None:
    text = class_nets.SOFTMAX.replace("y = Softmax <axis = 1> (logits)", "y = Gemm(logits, w4)")
    model = nets.build(text, {**class_nets.SOFTMAX_WEIGHTS, "w4": (6, 6)})
    result = kept(model, "0,3", class_axes=["y:1"])
    (before, logits), (after, same) = outputs(model, X), outputs(result.model, X)
    np.testing.assert_allclose(after, before[:, [0, 3]], atol=1e-5 * abs(before).max())
    np.testing.assert_allclose(same, logits, atol=1e-5)
    with pytest.raises(
        OptionError, match=r"class 1 cannot go: index 1 of axis 1 of the output 'logits': Gemm 'node_y'"
    ):
        kept(model, "0,3", class_axes=["logits:1"])


def test_outputs_that_lose_the_same_indices_are_named() -> None:
    with pytest.raises(OptionError, match=r"go 3 indices of axis 1 of the output 'logits'") as failure:
        kept(class_nets.softmax(), "0,3,4", class_axes=["y:1"])
    assert failure.value.hint.endswith("class_axes logits:1, too")


def test_a_target_is_a_share_of_what_the_classes_leave() -> None:
    path, images = nets.network("resnet"), nets.fmnist("test", 16)
    data = {"images": nets.fmnist("calibration", 64)}
    alone = kept(path, "0-4")
    result = kept(path, "0-4", keep_macs=0.7, calibration=data)
    assert result.report.before.macs == alone.report.after.macs
    assert result.report.after.macs <= 0.7 * result.report.before.macs
    assert result.report.drift is not None
    replayed = onnxpfp.prune(path, from_plan=result.plan, compensate="none", no_latency=True)
    assert [t.dims for t in replayed.model.graph.initializer] == [t.dims for t in result.model.graph.initializer]
    assert outputs(replayed.model, images)[0].shape == (16, 5)


def test_a_plan_says_what_goes_of_the_file_and_is_replayed(tmp_path: Path) -> None:
    path = nets.network("resnet")
    result = kept(path, "0-4", keep_macs=0.6)
    plan = tmp_path / "plan.json"
    plan.write_text(result.plan.to_json())
    document = json.loads(plan.read_text())
    assert document["version"] == 4
    assert document["classes"]["kept"] == [0, 1, 2, 3, 4]
    stored = nets.weights(onnx.load(path))
    for name, entry in document["initializers"].items():
        cut = stored[name]
        assert list(cut.shape) == entry["shape"]
        for axis, indices in entry["keep"].items():
            cut = cut.take(indices, axis=int(axis))
        assert cut.shape == nets.weights(result.model)[name].shape
    replayed = onnxpfp.prune(path, from_plan=plan, compensate="none", no_latency=True)
    assert nets.weights(replayed.model)["head.fc.weight"].shape[0] == 5
    report = onnxpfp.verify(path, replayed.model, plan=plan, no_latency=True)
    assert report.passed, report.problems
    assert report.classes is not None
    assert report.classes.kept == (0, 1, 2, 3, 4)
    with pytest.raises(OptionError, match="keeps other classes than the plan"):
        kept(path, "0-3", keep_macs=None, from_plan=plan)
    document["initializers"].pop("head.fc.weight")
    plan.write_text(json.dumps(document))
    with pytest.raises(PlanError, match=r"keeps what goes with them of the weight 'head\.fc\.weight'"):
        onnxpfp.prune(path, from_plan=plan)


def test_a_file_is_verified_against_the_original_without_the_other_classes() -> None:
    path = nets.network("resnet")
    result = kept(path, "0,1")
    report = onnxpfp.verify(path, result.model, keep_classes="0,1", no_latency=True)
    assert report.passed
    assert report.drift is not None
    assert report.drift.relative_error == pytest.approx(0, abs=1e-6)
    assert not onnxpfp.verify(path, result.model, keep_classes="0,2", max_drift=0.1, no_latency=True).passed
    plain = onnxpfp.verify(path, result.model, no_latency=True)
    assert not plain.passed
    assert any("if classes went" in note for note in plain.notes)


def test_all_classes_leave_the_file_as_it_is() -> None:
    path = nets.network("resnet")
    result = kept(path, "0-9")
    assert result.report.classes is None
    assert result.unchanged == path.read_bytes()


def test_names_of_classes_come_from_the_metadata() -> None:
    model = class_nets.yolov5()
    model.metadata_props.add(key="names", value="{0: 'cat', 1: 'dog', 2: 'bird'}")
    result = kept(model, "bird,cat")
    assert result.report.classes is not None
    assert result.report.classes.names == ("cat", "bird")
    assert [entry.value for entry in result.model.metadata_props if entry.key == "names"] == [
        "{0: 'cat', 1: 'dog', 2: 'bird'}"
    ]
    assert any("goes on naming all classes" in note for note in result.report.notes)
    with pytest.raises(OptionError, match="'brid' is the name of no class") as failure:
        kept(model, "brid")
    assert failure.value.hint == "close names: bird"
