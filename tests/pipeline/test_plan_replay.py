"""Plans: their form, and replaying them on the same network and on other exports of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import onnxpfp
from onnxpfp.errors import PlanError

DATA = nets.noise(12, 3, 8, 8)

SHARED_VECTOR = """g (float[N,3,6,6] x) => (float[N,2,2,2] y) {
    a = Conv(x, w1, b)
    r = Relu(a)
    c = Conv(r, w2, b)
    s = Relu(c)
    y = Conv <strides = [2,2]> (s, w3)
}"""
SHARED_SHAPES = {"w1": (8, 3, 1, 1), "b": (8,), "w2": (8, 8, 3, 3), "w3": (2, 8, 1, 1)}


def prune(model: ModelProto | Path, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(
        model,
        **{"calibration": DATA, "keep_macs": 0.5, "allocate": "bound", "compensate": "none", "round_to": 1} | options,
    )


def written(result: onnxpfp.Result, folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text(result.plan.to_json())
    return path


def other_export(model: ModelProto, *, constants: bool) -> ModelProto:
    """The same network from another exporter: other node and tensor names, weights in Constant nodes."""
    out = ModelProto()
    out.CopyFrom(model)
    kept = {t.name for t in model.graph.initializer} | {v.name for v in [*model.graph.input, *model.graph.output]}
    for number, node in enumerate(out.graph.node):
        node.name = f"other_{number}"
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = name if name in kept or not name else f"renamed_{name}"
    if constants:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in out.graph.initializer]
        nodes += list(out.graph.node)
        del out.graph.initializer[:], out.graph.node[:]
        out.graph.node.extend(nodes)
    return out


def test_the_form_of_a_plan(tmp_path: Path) -> None:
    onnx.save(nets.chain(), tmp_path / "in.onnx")
    result = prune(tmp_path / "in.onnx")
    plan = json.loads(result.plan.to_json())
    assert set(plan) == {"format", "version", "source_sha256", "made_by", "attention", "initializers", "groups"}
    assert (plan["format"], plan["version"]) == ("onnxpfp-plan", 1)
    assert plan["source_sha256"] == hashlib.sha256((tmp_path / "in.onnx").read_bytes()).hexdigest()
    before, after = nets.weights(nets.chain()), nets.weights(result.model)
    assert set(plan["initializers"]) == {"w1", "b1", "w2", "w3"}
    for name, entry in plan["initializers"].items():
        assert set(entry) == {"shape", "keep"}
        assert entry["shape"] == list(before[name].shape)
        array = before[name]
        for axis, kept in entry["keep"].items():
            assert kept == sorted(set(kept))
            array = np.take(array, kept, int(axis))
        np.testing.assert_array_equal(array, after[name])
    assert [(g["channels"], g["kept"]) for g in plan["groups"]] == [(g.channels, g.kept) for g in result.report.groups]


@pytest.mark.parametrize("select", ["deterministic", "sampled", "mixed"])
@pytest.mark.parametrize("with_data", [False, True])
def test_a_replay_gives_the_same_bytes(select: str, with_data: bool, tmp_path: Path) -> None:
    first = prune(nets.chain(), select=select, delta=0.5)
    path = written(first, tmp_path)
    assert ("scale" in path.read_text()) == (select != "deterministic")
    again = prune(nets.chain(), from_plan=path, calibration=DATA if with_data else None, keep_macs=None)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.report.method == "plan"
    assert again.plan.initializers == first.plan.initializers
    assert (again.report.before, again.report.after) == (first.report.before, first.report.after)
    assert prune(nets.chain(), from_plan=first.plan).model == first.model


@pytest.mark.parametrize("compensate", ["bias", "lstsq"])
def test_a_replay_with_the_same_data_compensates_alike(compensate: str, tmp_path: Path) -> None:
    first = prune(nets.chain(), compensate=compensate)
    again = prune(nets.chain(), compensate=compensate, from_plan=written(first, tmp_path), keep_macs=None)
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert bool(again.report.refits) == (compensate == "lstsq")
    assert again.report.refits or again.report.compensated


@pytest.mark.parametrize("select", ["deterministic", "sampled"])
@pytest.mark.parametrize("constants", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_a_replay_on_another_export(select: str, constants: bool, back: bool, tmp_path: Path) -> None:
    one, two = nets.chain(), other_export(nets.chain(), constants=constants)
    if back:
        one, two = two, one
    first = prune(one, select=select)
    again = prune(two, from_plan=written(first, tmp_path), keep_macs=None)
    assert again.plan.initializers == first.plan.initializers
    assert set(first.plan.initializers) == {"w1", "b1", "w2", "w3"}
    for name, array in nets.weights(first.model).items():
        np.testing.assert_array_equal(nets.weights(again.model)[name], array)
    np.testing.assert_allclose(nets.run(again.model, DATA), nets.run(first.model, DATA), rtol=1e-6)
    assert "the plan was made for another file; it fits this one by names and shapes" in again.report.notes


@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_a_vector_that_several_nodes_share(keep: float, tmp_path: Path) -> None:
    model = nets.build(SHARED_VECTOR, SHARED_SHAPES)
    data = nets.noise(12, 3, 6, 6)
    first = prune(model, calibration=data, keep_macs=keep)
    whole = set(range(8))
    cuts = [
        set(first.plan.initializers[name].keep.get(0, whole)) if name in first.plan.initializers else whole
        for name in ("w1", "w2")
    ]
    assert cuts[0] != cuts[1]
    assert "b" not in first.plan.initializers
    again = prune(model, calibration=None, from_plan=written(first, tmp_path), keep_macs=None)
    assert again.model.SerializeToString() == first.model.SerializeToString()


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_a_trained_network_replays_its_plan(name: str, tmp_path: Path) -> None:
    first = prune(nets.network(name), calibration=nets.CALIBRATION, samples=16, round_to="auto")
    again = prune(nets.network(name), calibration=None, from_plan=written(first, tmp_path), keep_macs=None)
    assert again.model.SerializeToString() == first.model.SerializeToString()


@pytest.mark.shared
def test_exports_of_one_network(tmp_path: Path) -> None:
    """The plan of one export fits a re-export with the same names, and is refused where the names differ."""
    folder = nets.SHARED / "models"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    source = onnx.load(folder / "cifar10_resnet20_bn.onnx")
    first = prune(source, calibration=None)
    path = written(first, tmp_path)
    again = prune(other_export(source, constants=True), calibration=None, from_plan=path, keep_macs=None)
    assert again.plan.initializers == first.plan.initializers
    with pytest.raises(PlanError, match=r"names the weight 'layer1.0.bn1.weight', which the model does not have"):
        prune(folder / "cifar10_resnet20_dynamo.onnx", calibration=None, from_plan=path, keep_macs=None)
