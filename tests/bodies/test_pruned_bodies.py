"""Networks whose weights lie in bodies of If, Loop and Scan are pruned there, and nothing around them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto
from support.bodies import IFS, LOOPS, build_bodies, samples, without
from support.oracle import difference, run

import onnxpfp
from onnxpfp.bodies.graphs import places_of

MODELS = IFS | LOOPS
names = pytest.mark.parametrize("name", MODELS)


def prune(name: str, **options: object) -> tuple[ModelProto, onnxpfp.Result]:
    model = build_bodies(MODELS[name][0])
    return model, onnxpfp.prune(model, **{"calibration": samples(name), "keep_macs": 0.6, "threads": 1} | options)


def outside(graph: GraphProto, weights: bool) -> bytes:
    """A graph without its bodies, and without weights where those may be cut."""
    copy = GraphProto()
    copy.CopyFrom(graph)
    del copy.value_info[:]
    for node in copy.node:
        for attribute in node.attribute:
            attribute.ClearField("g")
    for tensor in copy.initializer:
        if not weights:
            name = tensor.name
            tensor.Clear()
            tensor.name = name
    return copy.SerializeToString(deterministic=True)


@names
def test_the_target_is_reached_exactly_and_nothing_outside_changes(name: str) -> None:
    model, result = prune(name)
    report, pruned = result.report, result.model
    onnx.checker.check_model(pruned)
    assert 0.4 < report.after.macs / report.before.macs <= 0.6
    assert report.after.params < report.before.params
    assert report.bodies
    assert all(body.reason == "" and body.oracle is not None and body.oracle.error < 1e-5 for body in report.bodies)
    assert report.oracle.error < 1e-5
    assert report.drift is not None
    assert report.drift.relative_error is not None
    assert report.drift.relative_error < 0.7
    in_main = bool(result.plan.initializers)
    own = "main graph" not in name and "outside" not in name
    assert in_main or outside(model.graph, own) == outside(pruned.graph, own)
    places, left = dict(places_of(model.graph)), dict(places_of(pruned.graph))
    assert places.keys() == left.keys()
    for place, graph in places.items():
        assert list(graph.input) == list(left[place].input)
        assert list(graph.output) == list(left[place].output)


@names
def test_the_plan_says_what_is_gone_and_a_replay_does_the_same(name: str, tmp_path: Path) -> None:
    model, result = prune(name, compensate="none", allocate="bound")
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json())
    replayed = onnxpfp.prune(model, from_plan=path, calibration=samples(name), compensate="none", threads=1)
    assert replayed.plan.bodies == result.plan.bodies
    assert result.plan.bodies
    assert replayed.model.SerializeToString() == result.model.SerializeToString()
    zeroed = without(model, result.plan)
    moved = 0.0
    for feed in samples(name, 8):
        wanted = run(zeroed, feed)
        assert difference(wanted, run(result.model, feed)) < 1e-5
        moved = max(moved, difference(run(model, feed), wanted))
    assert moved > 1e-4


def test_a_branch_that_no_sample_takes_stays() -> None:
    name = "weights in both branches"
    data = {"x": np.abs(np.concatenate([feed["x"] for feed in samples(name)]))}
    model, result = prune(name, calibration=data)
    bodies = {body.place: body for body in result.report.bodies}
    assert bodies["y/else_branch"].reason == "no sample takes this branch, held-out ones aside"
    assert bodies["y/then_branch"].runs == 1
    assert result.plan.bodies.keys() == {"y/then_branch"}
    before, after = (dict(places_of(each.graph))["y/else_branch"] for each in (model, result.model))
    assert before == after


def test_what_several_branches_read_stays_where_it_is() -> None:
    model, result = prune("a vector outside that both branches read, and a matrix")
    old, new = ({tensor.name: tensor for tensor in each.graph.initializer} for each in (model, result.model))
    assert old.keys() == new.keys()
    assert new["shared"] == old["shared"]
    assert new["matrix"] == old["matrix"]
    assert new["a1"].dims[1] < old["a1"].dims[1]
