"""`onnxpfp.inspect`: what could be pruned, what lies behind it, and why the rest stays."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.graphs import build

import onnxpfp
from onnxpfp import errors
from onnxpfp.api import inspect as inspection
from onnxpfp.api.inspect import Footprint, NodeName
from onnxpfp.channels import Analysis, Group
from onnxpfp.channels.macs import mac_terms
from onnxpfp.model.load import load
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze_at

MIXED = """g (float[N,6] x) => (float[N,4] y) {
    a = MatMul(x, w1)
    b = LayerNormalization(a, s)
    c = MatMul(b, w2)
    d = Relu(c)
    e = MatMul(d, w3)
    f = LayerNormalization(e, s2)
    y = MatMul(f, w4)
}"""
MIXED_SHAPES = {"w1": (6, 8), "s": (8,), "w2": (8, 10), "w3": (10, 20), "s2": (20,), "w4": (20, 4)}


def mixed() -> ModelProto:
    """Ten channels in the middle; LayerNormalization keeps the axes before and behind."""
    return nets.build(MIXED, MIXED_SHAPES)


def analysis(model: ModelProto) -> Analysis:
    """Analyse a model."""
    return analyze_at(load(model), {}, Options())


def without(found: Analysis, groups: Sequence[Group]) -> Footprint:
    """Count, index by index, what no channel of these groups holds."""
    graph = found.graph
    moving = np.zeros(graph.count + 1, bool)
    for group in groups:
        moving[group.channels] = True
    params = 0
    for name in graph.stored:
        # A vector that several nodes read has channels of its own for each of them.
        uses = graph.uses.get(name, {0: graph.axes[name]}).values()
        params += int((~np.logical_or.reduce([_any(axes, moving) for axes in uses])).sum())
    terms = mac_terms(found.source.model, found.shapes.shape)
    macs = sum(math.prod(int((~moving[graph.axes[name][axis]]).sum()) for name, axis in term) for term in terms)
    return Footprint(params, macs)


def _any(axes: tuple[np.ndarray, ...], moving: np.ndarray) -> np.ndarray:
    """Which numbers of a tensor lie on an index that moves."""
    found = np.zeros([axis.size for axis in axes], bool)
    for number, axis in enumerate(axes):
        found |= moving[axis].reshape([-1 if other == number else 1 for other in range(len(axes))])
    return found


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_totals_are_those_of_a_run(name: str) -> None:
    found = onnxpfp.inspect(nets.network(name))
    model = onnx.load(nets.network(name))
    feed = {"images": nets.fmnist("calibration", 1)}
    assert found.total == Footprint(nets.count_params(model), nets.count_macs(model, feed))
    assert found.inputs == {"images": (1, 1, 28, 28)}
    assert found.nodes == len(model.graph.node)
    assert found.file == str(nets.network(name))


@pytest.mark.parametrize(
    "model",
    [*map(onnx.load, map(nets.network, nets.NETWORKS)), nets.chain(), mixed()],
    ids=[*nets.NETWORKS, "chain", "mixed"],
)
def test_the_parts_fit_the_totals(model: ModelProto) -> None:
    found, analysed = onnxpfp.inspect(model), analysis(model)
    groups = analysed.graph.groups
    assert found.reachable == less(found.total, without(analysed, groups))
    assert {group.name: group.behind for group in found.groups} == {
        group.name: less(found.total, without(analysed, [group])) for group in groups
    }
    for quantity in ("params", "macs"):
        shares = [getattr(group.behind, quantity) for group in found.groups]
        assert max(shares) <= getattr(found.reachable, quantity) <= sum(shares)
        assert all(getattr(stay.stuck, quantity) <= getattr(stay.behind, quantity) for stay in found.stays)


def less(total: Footprint, rest: Footprint) -> Footprint:
    return Footprint(total.params - rest.params, total.macs - rest.macs)


def test_a_group_is_what_it_would_save() -> None:
    first, second = onnxpfp.inspect(nets.chain()).groups
    assert (first.name, first.channels, first.consumers) == ("w1", 8, (NodeName("Conv", "node_c"),))
    assert first.behind == Footprint(8 * 27 + 8 + 720, (8 * 27 + 720) * 64)
    assert (second.name, second.channels, second.consumers) == ("w2", 10, (NodeName("Gemm", "node_y"),))
    assert second.behind == Footprint(720 + 50, 720 * 64 + 50)


def test_the_most_expensive_comes_first() -> None:
    found = onnxpfp.inspect(nets.network("densenet"))
    total = found.total
    costs = [g.behind.params / total.params + g.behind.macs / total.macs for g in found.groups]
    assert len(costs) > 10
    assert costs == sorted(costs, reverse=True)


def test_reasons_of_one_kind_are_one_row() -> None:
    found = onnxpfp.inspect(mixed())
    assert [stay.reason for stay in found.stays] == [
        "LayerNormalization normalizes over it",
        "it is the graph output",
    ]
    norm, output = found.stays
    # The larger axis is named first.
    assert [(axis.tensor, axis.axis, axis.count) for axis in norm.axes] == [("w3", 1, 20), ("w1", 1, 8)]
    assert [re.findall("'(.+)'", axis.reason) for axis in norm.axes] == [["node_f"], ["node_b"]]
    assert norm.behind == Footprint(10 * 20 + 6 * 8, 10 * 20 + 6 * 8)
    assert norm.stuck == Footprint(6 * 8, 6 * 8)
    assert output.behind == output.stuck == Footprint(20 * 4, 20 * 4)
    # What is left are the two scales.
    left = found.total.params - found.reachable.params - norm.stuck.params - output.stuck.params
    assert left == 8 + 20


def test_two_axes_of_one_weight_are_counted_once() -> None:
    text = "g (float[N,6] x) => (float[N,4] y, float[6,4] z) { y = MatMul(x, w) z = Identity(w) }"
    found = onnxpfp.inspect(nets.build(text, {"w": (6, 4)}))
    (stay,) = found.stays
    assert stay.behind == stay.stuck == found.total == Footprint(24, 24)


def test_macs_of_a_weight_that_is_computed_belong_to_what_is_stored() -> None:
    text = "g (float[N,6] x) => (float[N,4] y) { t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t) }"
    for stay in onnxpfp.inspect(nets.build(text, {"w": (4, 6)})).stays:
        assert [axis.tensor for axis in stay.axes] == ["w"]
        assert stay.behind == stay.stuck == Footprint(24, 24)


def test_a_vector_that_two_nodes_read_is_not_said_to_stay() -> None:
    text = "g (float[N,3,8,8] x) => (float[N,5,8,8] y) { a = Conv(x, w1) b = Add(a, s) c = Conv(b, w2) d = Mul(c, s) "
    shapes = {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "w3": (5, 6, 1, 1), "s": (1, 6, 1, 1)}
    found = onnxpfp.inspect(nets.build(text + "y = Conv(d, w3) }", shapes))
    assert [stay.reason for stay in found.stays] == ["it is the graph output"]


def test_a_model_with_nothing_to_prune() -> None:
    relu = onnxpfp.inspect(nets.build("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", {}))
    assert (relu.total, relu.reachable, relu.groups, relu.stays) == (Footprint(0, 0), Footprint(0, 0), (), ())
    assert relu.file is None


def test_input_shapes_are_those_that_are_given() -> None:
    text = "g (float[N,3,H,W] x) => (float[N,2,H,W] y) { h = Conv(x, w1) y = Conv(h, w2) }"
    model = nets.build(text, {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)})
    assert onnxpfp.inspect(model).total.macs == (12 + 8) * 224 * 224
    found = onnxpfp.inspect(model, input_shapes={"x": (2, 3, 5, 7)})
    assert found.total.macs == found.reachable.macs == (12 + 8) * 2 * 5 * 7
    assert found.inputs == {"x": (2, 3, 5, 7)}


def test_patterns_leave_groups_out() -> None:
    model = nets.chain()
    assert [g.name for g in onnxpfp.inspect(model, include=["node_a"]).groups] == ["w1"]
    found = onnxpfp.inspect(model, exclude=["w1"])
    assert [g.name for g in found.groups] == ["w2"]
    assert "--exclude leaves it as it is" in {stay.reason for stay in found.stays}
    assert onnxpfp.inspect(model, exclude=["*"]).groups == ()


def test_the_model_is_not_changed() -> None:
    model = nets.chain()
    before = model.SerializeToString(deterministic=True)
    onnxpfp.inspect(model)
    assert model.SerializeToString(deterministic=True) == before


def test_the_json_form_stays_as_it_is() -> None:
    document = onnxpfp.inspect(mixed()).to_dict()
    assert document == json.loads(json.dumps(document))
    assert document == {
        "format": "onnxpfp-inspection",
        "version": 1,
        "file": None,
        "opsets": {"ai.onnx": 17},
        "ir_version": 8,
        "nodes": 7,
        "inputs": {"x": [1, 6]},
        "attention": "heads",
        "total": {"params": 436, "macs": 408},
        "reachable": {"params": 280, "macs": 280},
        "groups": [
            {
                "name": "w2",
                "channels": 10,
                "behind": {"params": 280, "macs": 280},
                "consumers": [{"op": "MatMul", "name": "node_e"}],
            }
        ],
        "stays": [
            {
                "reason": "LayerNormalization normalizes over it",
                "axes": [
                    {
                        "tensor": "w3",
                        "axis": 1,
                        "count": 20,
                        "reason": "LayerNormalization 'node_f' normalizes over it",
                    },
                    {"tensor": "w1", "axis": 1, "count": 8, "reason": "LayerNormalization 'node_b' normalizes over it"},
                ],
                "behind": {"params": 248, "macs": 248},
                "stuck": {"params": 48, "macs": 48},
            },
            {
                "reason": "it is the graph output",
                "axes": [{"tensor": "w4", "axis": 1, "count": 4, "reason": "it is the graph output 'y'"}],
                "behind": {"params": 80, "macs": 80},
                "stuck": {"params": 80, "macs": 80},
            },
        ],
        "bodies": [],
        "activations": {
            "bytes": 160,
            "op": "LayerNormalization",
            "node": "node_f",
            "tensors": [{"name": "e", "bytes": 80}, {"name": "f", "bytes": 80}],
            "unsized": [],
            "bodies": [],
        },
        "subnormal": {"weights": 0, "tensors": 0, "zeroed": None, "latency": None},
        "notes": [],
        "nothing": "",
    }


def test_every_field_of_the_json_form_is_documented() -> None:
    page = (nets.ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`([a-z_]+)(?:\[\])?`", page.split("## As JSON")[1]))
    document = onnxpfp.inspect(mixed()).to_dict()
    inner = [document["total"], *document["groups"], *document["stays"]]
    inner += [node for group in document["groups"] for node in group["consumers"]]
    inner += [axis for stay in document["stays"] for axis in stay["axes"]]
    assert set(document).union(*inner) - described == set()


def test_a_model_that_onnxruntime_refuses_is_inspected_where_its_shapes_are_known() -> None:
    new = onnxpfp.inspect(nets.build(nets.CHAIN, nets.CHAIN_SHAPES, ir=99))
    assert (new.groups, new.ir_version) == (onnxpfp.inspect(nets.chain()).groups, 99)
    unknown = nets.build(nets.CHAIN.replace("Relu", "Foo"), nets.CHAIN_SHAPES)
    with pytest.raises(errors.ModelError, match=r"onnxruntime cannot load the model.*No Op registered for Foo"):
        onnxpfp.inspect(unknown)


def test_weights_that_do_not_fit_are_no_bug_of_ours() -> None:
    with pytest.raises(errors.ModelError, match="kernel channels: 5"):
        onnxpfp.inspect(nets.build(nets.CHAIN, nets.CHAIN_SHAPES | {"w2": (10, 5, 3, 3)}))


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(inspection, "analyze_at", broken)
    with pytest.raises(ZeroDivisionError):
        onnxpfp.inspect(nets.chain())
    text = "g (string[N] x) => (string[N] y) { y = Identity(x) }"
    with pytest.raises(ZeroDivisionError):
        onnxpfp.inspect(nets.build(text, {}))


def test_impossible_shapes_and_patterns_are_refused() -> None:
    with pytest.raises(errors.OptionError, match="input_shapes names 'y', which is not an input"):
        onnxpfp.inspect(nets.chain(), input_shapes={"y": (1, 3, 8, 8)})
    with pytest.raises(errors.OptionError, match="include 'nowhere' matches no node"):
        onnxpfp.inspect(nets.chain(), include=["nowhere"])


UNITS = {
    "one channel": (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[1,3,1,1] w1, float[4,1,1,1] w2> "
        "{ a = Conv(x, w1)\n y = Conv(a, w2) }",
        (),
    ),
    "groups of two kinds": (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[6,3,1,1] w1, float[6,3,1,1] w2, float[6,2,1,1] w3, "
        "float[4,6,1,1] w4> { a = Conv(x, w1)\n b = Conv<group = 2>(a, w2)\n c = Add(a, b)\n "
        "d = Conv<group = 3>(c, w3)\n e = Add(c, d)\n y = Conv(e, w4) }",
        (),
    ),
    "added to itself, shifted": (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[6,3,1,1] w1, float[4,6,1,1] w2> { a = Conv(x, w1)\n"
        "l = Constant<value = int64[2] {1, 5}>()\n h, t = Split<axis = 1>(a, l)\n s = Concat<axis = 1>(t, h)\n"
        "b = Add(a, s)\n y = Conv(b, w2) }",
        (),
    ),
    "groups of two kinds, and others": (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[6,3,1,1] w1, float[6,3,1,1] w2, float[6,2,1,1] w3, "
        "float[8,6,1,1] w4, float[4,8,1,1] w5> { a = Conv(x, w1)\n b = Conv<group = 2>(a, w2)\n c = Add(a, b)\n"
        "d = Conv<group = 3>(c, w3)\n e = Add(c, d)\n f = Conv(e, w4)\n r = Relu(f)\n y = Conv(r, w5) }",
        ("w4",),
    ),
    "one channel between two layers of several": (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[8,3,1,1] w1, float[1,8,1,1] w2, float[6,1,1,1] w3, "
        "float[4,6,1,1] w4> { a = Conv(x, w1)\n b = Conv(a, w2)\n c = Conv(b, w3)\n y = Conv(c, w4) }",
        ("w1", "w3"),
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_what_is_one_unit_is_not_called_reachable(name: str) -> None:
    text, groups = UNITS[name]
    model = build(text)
    found = onnxpfp.inspect(model)
    assert {group.name for group in found.groups} == set(groups)
    with pytest.raises(errors.TargetUnreachableError) as caught:
        onnxpfp.prune(model, keep_macs=0.001, round_to=1)
    least = float(re.search(r"([0-9.]+)% is the least", str(caught.value))[1]) / 100
    assert found.reachable.macs / found.total.macs >= 1 - least - 0.001
    assert (found.reachable.macs == 0) == (least == 1)
    assert (found.reachable.params == 0) == (not found.groups)
    assert "--round-to" not in caught.value.hint
    wide = [axis for stay in found.stays for axis in stay.axes if "one unit must stay" in axis.reason]
    assert bool(wide) == ("one channel" not in name)
    report = onnxpfp.prune(model, keep_macs=1).report
    assert report.reachable == found.reachable.params / found.total.params
