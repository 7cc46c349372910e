"""Classes of raw heads: of several anchors that lie behind one another on one axis, and of heads scale by scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto
from support import class_nets

import onnxpfp
from onnxpfp.errors import OptionError, PlanError

X = nets.noise(4, 3, 8, 8)
DATA = nets.noise(64, 3, 8, 8)
NAMES = ["cat", "dog", "bird"]
BOTH = ["h1:1:5:3:8", "h2:1:5:3:8"]
OF_ONE = [0, 1, 2, 3, 4, 6]
"""What is left of one anchor where class 1 stays: its box, its objectness, its score."""
LEFT = [*OF_ONE, *(8 + index for index in OF_ONE)]
DIVIDED = "v = Reshape(h1, shape)"
TWICE = f"""g (float[N,3,8,8] x) => (float[N,12] y) {{{class_nets.BODY}
    m = GlobalAveragePool(r)
    f = Flatten(m)
    z = Gemm <transB = 1> (f, w3, b3)
    y = Concat <axis = 1> (z, z)
}}"""


def outputs(model: ModelProto) -> list[NDArray[Any]]:
    opened = nets.session(model)
    return [np.asarray(value) for value in opened.run(None, {opened.get_inputs()[0].name: X})]


def kept(model: ModelProto, classes: Any, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(model, **{"keep_macs": 1.0, "keep_classes": classes, "no_latency": True} | options)


def assert_kept(model: ModelProto, result: onnxpfp.Result, indices: dict[int, tuple[int, list[int]]]) -> None:
    """Hold every output against the original's, at the indices of one axis where it has lost some."""
    for place, (before, after) in enumerate(zip(outputs(model), outputs(result.model), strict=True)):
        axis, stay = indices.get(place, (0, list(range(len(X)))))
        np.testing.assert_allclose(after, before.take(stay, axis=axis), atol=1e-5 * abs(before).max())


def test_the_classes_of_every_anchor_go_where_the_user_says_how_long_one_is() -> None:
    model = class_nets.raw_yolov5()
    result = kept(model, "1", class_axes=BOTH)
    assert_kept(model, result, {0: (1, LEFT), 1: (1, LEFT)})
    assert nets.weights(result.model)["wh1"].shape == (2 * 6, 16, 1, 1)
    assert [output.type.tensor_type.shape.dim[1].dim_value for output in result.model.graph.output] == [12, 12]
    assert result.report.classes is not None
    assert [(axis.typed, axis.blocks) for axis in result.report.classes.axes] == [(BOTH[0], 2), (BOTH[1], 2)]
    assert json.loads(json.dumps(result.report.to_dict()))["classes"]["axes"][0]["blocks"] == 2


def test_a_head_that_is_not_named_keeps_all_classes() -> None:
    model = class_nets.raw_yolov5()
    assert_kept(model, kept(model, "1", class_axes=BOTH[:1]), {0: (1, LEFT)})


def test_anchors_on_an_axis_behind_others() -> None:
    model = class_nets.raw_yolov5("t = Transpose <perm = [0,2,3,1]> (h1)", "float[N,8,8,16] t")
    result = kept(model, "1", class_axes=["h1:1:5:3:8", "t:-1:5:3:8"])
    assert_kept(model, result, {0: (1, LEFT), 2: (3, LEFT)})


@pytest.mark.parametrize(
    ("nodes", "output", "axis", "stay"),
    [
        (DIVIDED, "float[N,2,8,8,8] v", 2, OF_ONE),
        (f"{DIVIDED}\n t = Transpose <perm = [0,1,3,4,2]> (v)", "float[N,2,8,8,8] t", 4, OF_ONE),
        (f"{DIVIDED}\n s = Sigmoid(v)\n y = Reshape(s, back)", "float[N,16,8,8] y", 1, LEFT),
    ],
    ids=["divided", "divided and transposed", "divided and joined again"],
)
def test_a_reshape_shows_how_long_an_anchor_is(nodes: str, output: str, axis: int, stay: list[int]) -> None:
    """The other head shows nothing, so it keeps its classes."""
    model = class_nets.raw_yolov5(nodes, output)
    result = kept(model, "bird,dog", class_names=NAMES)
    both = [*stay, *(index + 1 for index in stay if index % 8 == 6)]
    assert_kept(model, result, {0: (1, sorted([*LEFT, 7, 15])), 2: (axis, sorted(both))})
    found = result.report.classes
    assert found is not None
    assert [each.blocks for each in found.axes] == [2, 2 if axis == 1 else 1]


def test_what_a_reshape_shows_is_held_against_what_is_said() -> None:
    model = class_nets.raw_yolov5(DIVIDED, "float[N,2,8,8,8] v")
    assert_kept(model, kept(model, "1", class_axes=["h1:1:5", "v:2:5"]), {0: (1, LEFT), 2: (2, OF_ONE)})
    with pytest.raises(
        OptionError, match=r"class 0 cannot go: index 1 of axis 1 of the output 'h1': it goes only with"
    ):
        kept(model, "1", class_axes=["h1:1:1:3:16", "v:2:5"])
    with pytest.raises(OptionError, match="has 16 indices, in blocks of 8"):
        kept(model, "1", class_axes=["h1:1:5:6", "v:2:5"])
    with pytest.raises(OptionError, match="go 2 indices of axis 2 of the output 'v'"):
        kept(model, "1", class_axes=["h1:1:5:3"])


def test_numbers_that_only_fit_are_not_taken_for_anchors() -> None:
    model = class_nets.raw_yolov5()
    with pytest.raises(OptionError, match="does not tell which indices are 3 classes") as failure:
        kept(model, "1", class_names=NAMES)
    assert "once for every anchor: class_axes h1:1:5:3:8 class_axes h2:1:5:3:8" in failure.value.hint
    model.metadata_props.add(key="names", value="{0: 'cat', 1: 'dog', 2: 'bird'}")
    with pytest.raises(OptionError, match="does not tell which indices are the classes"):
        kept(model, "dog")
    with pytest.raises(OptionError, match="does not tell which indices are the classes") as failure:
        kept(class_nets.raw_yolov5(), "1")
    assert "class_axes h1:1:0:16 class_axes h2:1:0:16, with the numbers of one anchor at the end" in failure.value.hint


@pytest.mark.parametrize("text", ["h1:1:5:3:7", "h1:1:5:3:0", "h1:1:5:3:32"])
def test_blocks_that_do_not_fill_the_axis_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="has 16 indices, which are no blocks of") as failure:
        kept(class_nets.raw_yolov5(), "1", class_axes=[text])
    assert "how many numbers one anchor has" in failure.value.hint


def test_heads_scale_by_scale_are_told_by_names_or_flags() -> None:
    model = class_nets.raw_yolov8()
    for told in ({"class_names": [*NAMES, "cow", "ox"]}, {"class_axes": ["both1:1:4", "both2:1:4"]}):
        result = kept(model, "1,4", **told)
        assert_kept(model, result, {place: (1, [0, 1, 2, 3, 5, 8]) for place in (0, 1)})
        assert nets.weights(result.model)["wc1"].shape == (2, 16, 1, 1)
    with pytest.raises(OptionError, match="does not tell which indices are the classes") as failure:
        kept(model, "1,4")
    assert "say which, as in class_axes both1:1:4:5 class_axes both2:1:4:5, or how many" in failure.value.hint


def test_the_rest_is_pruned_replayed_and_verified(tmp_path: Path) -> None:
    model = class_nets.raw_yolov5()
    result = kept(model, "0,2", class_axes=BOTH, keep_macs=0.6, calibration=DATA, round_to=1)
    assert [each.shape[1] for each in outputs(result.model)] == [14, 14]
    assert result.report.after.macs <= 0.6 * result.report.before.macs
    plan = tmp_path / "plan.json"
    plan.write_text(result.plan.to_json())
    replayed = onnxpfp.prune(model, from_plan=plan, compensate="none", no_latency=True)
    assert [t.dims for t in replayed.model.graph.initializer] == [t.dims for t in result.model.graph.initializer]
    assert onnxpfp.verify(model, replayed.model, plan=plan, no_latency=True).passed
    assert onnxpfp.verify(
        model, kept(model, "1", class_axes=BOTH).model, keep_classes="1", class_axes=BOTH, no_latency=True
    ).passed
    document = json.loads(plan.read_text())
    for blocks in (0, 3, 4):
        document["classes"]["axes"][0]["blocks"] = blocks
        plan.write_text(json.dumps(document))
        with pytest.raises(PlanError, match="the plan is damaged"):
            onnxpfp.prune(model, from_plan=plan)


def test_channels_that_come_twice_are_no_classes_unless_that_is_said() -> None:
    model = nets.build(TWICE, class_nets.SOFTMAX_WEIGHTS)
    with pytest.raises(OptionError, match="indices 0 to 5 of every 6 of 12"):
        kept(model, "0,3")
    assert_kept(model, kept(model, "0,3", class_axes=["y:1"]), {0: (1, [0, 3, 6, 9])})
