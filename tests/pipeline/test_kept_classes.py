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
from onnxpfp.model import load as load_module

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
    silent = kept(path, "0,2,5-9", no_metadata=True).model
    assert list(silent.metadata_props) == list(onnx.load(path).metadata_props)


def test_a_file_from_which_classes_alone_went_says_so(tmp_path: Path) -> None:
    onnx.save(class_nets.softmax(), tmp_path / "in.onnx")
    result = kept(tmp_path / "in.onnx", [1, 4])
    told = {entry.key: entry.value for entry in result.model.metadata_props}
    assert told["onnxpfp.target"] == "prune --keep-macs 1"
    assert json.loads(told["onnxpfp.options"]) == {"keep-classes": [1, 4]}
    assert len(result.model.SerializeToString()) == result.report.after.bytes > result.report.before.bytes
    replayed = onnxpfp.prune(tmp_path / "in.onnx", from_plan=result.plan, no_latency=True)
    assert replayed.model == result.model


@pytest.mark.parametrize("over", [-1, 0, 100, 1000])
def test_a_file_is_no_larger_than_was_asked_for_with_what_it_says_of_its_classes(over: int) -> None:
    model = class_nets.softmax()
    silent = len(kept(model, [1, 4], no_metadata=True).model.SerializeToString())
    result = kept(model, [1, 4], keep_macs=None, keep_size=float(silent + over), round_to=1)
    assert len(result.model.SerializeToString()) == result.report.after.bytes <= silent + over


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


NUMBERS: dict[str, dict[str, Any]] = {
    "half precision": {"dtype": np.float16},
    "a softmax over all axes behind one, initializers as inputs": {"opset": 11, "ir": 3},
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_other_numbers_and_older_files_lose_classes_too(kind: str) -> None:
    changes = NUMBERS[kind]
    text = class_nets.SOFTMAX.replace("float[", "float16[") if "dtype" in changes else class_nets.SOFTMAX
    model = nets.build(text, class_nets.SOFTMAX_WEIGHTS, **changes)
    if "ir" in changes:
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
    result = kept(model, "1,3")
    onnx.checker.check_model(result.model, full_check=True)
    x = X.astype(changes.get("dtype", np.float32))
    before, after = outputs(model, x)[1], outputs(result.model, x)[1]
    np.testing.assert_allclose(after, before[:, [1, 3]], rtol=1e-2 if "dtype" in changes else 1e-5)


@pytest.mark.parametrize("mapped", [False, True])
def test_weights_in_other_files_lose_classes_too(mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.onnx"
    onnx.save_model(class_nets.softmax(), path, save_as_external_data=True, size_threshold=0)
    if mapped:
        monkeypatch.setattr(load_module, "IN_MEMORY", 0)
        monkeypatch.setattr(load_module, "PART_FROM", 0)
    onnxpfp.save_result(kept(path, "1,3"), tmp_path / "out.onnx")
    before, after = outputs(class_nets.softmax(), X)[1], outputs(onnx.load(tmp_path / "out.onnx"), X)[1]
    np.testing.assert_allclose(after, before[:, [1, 3]], atol=1e-5)


PICKS = {
    "NonMaxSuppression 'node_picked'": (
        "corners = Transpose <perm = [0,2,1]> (box)\n picked = NonMaxSuppression(corners, s, most)",
        "int64[K,3] picked",
    ),
    "ReduceMax 'node_picked'": ("picked = ReduceMax <axes = [1], keepdims = 0> (s)", "float[N,M] picked"),
}


@pytest.mark.parametrize("op", PICKS)
def test_boxes_that_are_picked_by_all_classes_keep_them(op: str) -> None:
    nodes, output = PICKS[op]
    text = class_nets.YOLOV8.replace("float[N,9,M] y", output).replace("y = Concat <axis = 1> (sum, size, s)", nodes)
    with pytest.raises(OptionError, match=f"no class can go: {op}"):
        kept(class_nets.yolov8(text), "1")


def test_an_op_that_onnxruntime_lacks_keeps_what_it_reads_alone() -> None:
    for read, message in (("y", "no class can go: Odd 'odd' reads it"), ("r", "")):
        model = class_nets.softmax()
        model.graph.node.append(onnx.helper.make_node("Odd", [read], ["z"], domain="odd", name="odd"))
        model.opset_import.append(onnx.helper.make_opsetid("odd", 1))
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
        if message:
            with pytest.raises(OptionError, match=message):
                kept(model, "1,3")
            continue
        left = kept(model, "1,3").model
        assert [node.op_type for node in left.graph.node][-1] == "Odd"
        assert nets.weights(left)["w3"].shape == (2, 16)


HOSTILE: dict[str, Any] = {
    "no classes": {"kept": []},
    "twice": {"kept": [1, 1]},
    "beyond": {"kept": [10]},
    "no numbers": {"kept": ["1"]},
    "no axis": {"axes": []},
    "too long": {"axes": [{"output": "logits", "axis": 1, "first": 5, "count": 10, "length": 10}]},
    "another length": {"axes": [{"output": "logits", "axis": 1, "first": 0, "count": 12, "length": 12}]},
    "no output": {"axes": [{"output": "scores", "axis": 1, "first": 0, "count": 10, "length": 10}]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_plans_of_impossible_classes_are_refused(name: str, tmp_path: Path) -> None:
    path = nets.network("resnet")
    document = json.loads(kept(path, "0-4").plan.to_json())
    document["classes"] |= HOSTILE[name]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises((OptionError, PlanError), match="the plan"):
        onnxpfp.prune(path, from_plan=tmp_path / "plan.json")


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
