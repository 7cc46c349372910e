"""--include and --exclude."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper
from support.graphs import build
from support.oracle import check_keep, problem

from onnxpfp.channels import Patterns
from onnxpfp.errors import OptionError

TEXT = """g (float[1,3,6,6] x) => (y) <float[8,3,1,1] stem_w, float[8] b, float[8,8,1,1] body_w,
        float[4,8,1,1] head_w, float[5,4,1,1] last_w> {
    [stem] a = Conv(x, stem_w, b)
    [body] c = Conv(a, body_w, b)
    [head] d = Conv(c, head_w)
    [last] y = Conv(d, last_w)
}"""


@pytest.fixture(scope="module")
def model():
    return build(TEXT)


def names(case):
    return [group.name for group in case.graph.groups]


def test_without_patterns_everything_may_go(model):
    assert names(problem(model)) == ["stem_w", "body_w", "head_w"]


@pytest.mark.parametrize(
    ("include", "left"),
    [
        ("stem", ["stem_w"]),
        ("stem_w", ["stem_w"]),
        ("[sb]*", ["stem_w", "body_w"]),
        ("re:^(head|stem)$", ["stem_w", "head_w"]),
    ],
)
def test_include(model, include, left):
    assert names(problem(model, Patterns(include=(include,)))) == left


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("stem", ["body_w", "head_w"]),
        ("body", ["head_w"]),
        ("re:hea", ["stem_w"]),
        ("stem_w", ["body_w", "head_w"]),
        ("last_w", ["stem_w", "body_w"]),
    ],
)
def test_exclude(model, exclude, left):
    case = problem(model, Patterns(exclude=(exclude,)))
    assert names(case) == left
    assert any(f"--exclude '{exclude}' leaves it as it is" == reason for reason in case.reasons.values())


def test_several_patterns_add_up(model):
    assert names(problem(model, Patterns(include=("stem", "head"), exclude=("last",)))) == ["stem_w"]


def test_include_says_why_the_rest_stays(model):
    assert problem(model, Patterns(include=("stem",))).reasons["head_w"] == "--include does not name it"


def test_excluded_layer_keeps_its_bytes(model):
    case = problem(model, Patterns(exclude=("body",)))
    keep = case.graph.keep_all()
    for group in case.graph.groups:
        keep[group.channels[::2]] = False
    pruned = check_keep(case, keep).model
    old, new = ({t.name: t for t in m.graph.initializer} for m in (model, pruned))
    for name in ("stem_w", "body_w", "b"):
        assert old[name].SerializeToString() == new[name].SerializeToString()
    assert model.graph.node[1].SerializeToString() == pruned.graph.node[1].SerializeToString()
    assert numpy_helper.to_array(new["head_w"]).shape == (2, 8, 1, 1)


def test_shared_bias_of_an_excluded_layer_stays_whole(model):
    case = problem(model, Patterns(exclude=("stem",)))
    keep = case.graph.keep_all()
    keep[case.graph.groups[0].channels[:3]] = False
    pruned = check_keep(case, keep).model
    bias = {t.name: t for t in pruned.graph.initializer}
    assert list(bias[pruned.graph.node[0].input[2]].dims) == [8]
    assert list(bias[pruned.graph.node[1].input[2]].dims) == [5]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_unmatched_pattern_is_an_error_with_close_names(model, option):
    with pytest.raises(OptionError) as error:
        problem(model, Patterns(**{option: ("steam",)}))
    assert str(error.value) == f"--{option} 'steam' matches no node and no initializer"
    assert error.value.hint.startswith("close names: stem")


def test_wrong_expression_is_an_error(model):
    with pytest.raises(OptionError, match=r"--exclude 're:\(' is no regular expression"):
        problem(model, Patterns(exclude=("re:(",)))


REAL = {
    "stem": "/backbone/stage[0]/Conv",
    "body": "/backbone/stage[1]/Conv",
    "head": "head conv #2: {final}",
    "last": "a;b/MatMul (2)",
    "stem_w": "backbone.stage[0].weight",
    "body_w": "backbone.stage[1].weight",
    "head_w": "модель*слой?.вес",
    "last_w": "re:last[w]",
}
"""Names as exporters and people write them."""


@pytest.fixture(scope="module")
def real_names(model):
    """The same network under such names, with one weight that the other's name matches as a glob."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.name = REAL.get(tensor.name, tensor.name)
    for node in copy.graph.node:
        node.name = REAL[node.name]
        node.input[:] = [REAL.get(name, name) for name in node.input]
    return copy


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        (REAL["stem_w"], ["stem_w"]),
        (REAL["body_w"], ["stem_w", "body_w"]),
        (REAL["stem"], ["stem_w"]),
        (REAL["head"], ["body_w", "head_w"]),
        (REAL["head_w"], ["body_w", "head_w"]),
        (REAL["last_w"], ["head_w"]),
        (REAL["last"], ["head_w"]),
        ("/backbone/stage[1]/*", ["stem_w", "body_w"]),
        ("backbone.stage[?].weight", ["stem_w", "body_w"]),
        ("*stage?[01]?/*", ["stem_w", "body_w"]),
        ("re:stage.1..w", ["stem_w", "body_w"]),
    ],
)
def test_names_with_special_characters_are_names_first(real_names, pattern, whole):
    left = [REAL[name] for name in ("stem_w", "body_w", "head_w") if name not in whole]
    assert names(problem(real_names, Patterns(exclude=(pattern,)))) == left


def test_exact_name_is_not_a_glob_for_others(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node[0].name = "*"
    assert names(problem(copy, Patterns(include=("*",)))) == ["stem_w"]


def test_node_without_a_name_goes_by_its_first_output(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node[1].name = ""
    assert names(problem(copy, Patterns(exclude=("c",)))) == ["head_w"]
    assert names(problem(copy, Patterns(include=("c",)))) == ["body_w"]
