"""Blocks that go: groups of which no channel stays, and the branch that they lie in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.oracle import problem

import onnxpfp
from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.allocation.op_latency import OpLatency
from onnxpfp.channels.branches import Branches
from onnxpfp.errors import CalibrationError, OptionError, PlanError
from onnxpfp.options import Options
from onnxpfp.pipeline.group_trials import BegunCurves
from onnxpfp.pipeline.latency.op_latencies import OpLatencies
from onnxpfp.report.page import Facts

BLOCKS: dict[str, Any] = {
    "structure": "channels,blocks",
    "keep_macs": 0.53,
    "round_to": 1,
    "threads": 1,
    "no_latency": True,
}
DATA = nets.noise(160, 3, 8, 8)


def network(faint: float = 1e-3) -> ModelProto:
    """Two residual blocks; what the first one adds is all but constant."""
    conv = "Conv <pads = [1,1,1,1]>"
    model = nets.build(
        f"""g (float[N,3,8,8] x) => (float[N,5] y) {{
            s = {conv}(x, w0, b0) q = Relu(s)
            a = {conv}(q, w1, b1) r = Relu(a) c = {conv}(r, w2, b2) z = Add(c, q) t = Relu(z)
            d = {conv}(t, w3, b3) e = Relu(d) f = {conv}(e, w4, b4) g = Add(f, t) h = Relu(g)
            p = GlobalAveragePool(h) k = Flatten(p) y = Gemm <transB = 1> (k, w5, b5)
        }}""",
        {
            "w0": (8, 3, 3, 3),
            "b0": (8,),
            **dict.fromkeys(("w1", "w3", "w4"), (8, 8, 3, 3)),
            **dict.fromkeys(("b1", "b2", "b3", "b4"), (8,)),
            "w2": faint * nets.noise(8, 8, 3, 3),
            "w5": (5, 8),
            "b5": (5,),
        },
    )
    return model


def prune(model: ModelProto | Path, **options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(model, calibration=DATA, **BLOCKS | options)


@pytest.fixture(scope="module")
def pruned() -> onnxpfp.Result:
    return prune(network())


def kept(result: onnxpfp.Result) -> dict[str, int]:
    return {group.name: group.kept for group in result.report.groups}


def test_a_block_that_adds_a_constant_goes(pruned: onnxpfp.Result) -> None:
    assert kept(pruned)["w1"] == 0
    outputs = {node.output[0] for node in pruned.model.graph.node}
    assert {"a", "r", "c"}.isdisjoint(outputs)
    assert {"d", "e", "f", "z", "g"} <= outputs
    stored = nets.weights(pruned.model)
    assert {"w1", "b1", "w2", "b2"}.isdisjoint(stored)
    assert stored["c"].shape[0] == 1
    assert stored["c"].shape[2:] == (1, 1)
    assert pruned.report.oracle.error < 1e-5
    assert pruned.report.after.macs == nets.count_macs(pruned.model, {"x": DATA[:1]})
    assert pruned.report.after.macs <= 0.53 * pruned.report.before.macs
    assert pruned.report.drift is not None
    assert pruned.report.drift.relative_error < 0.2


def test_weights_that_are_listed_as_inputs_go_from_both_lists() -> None:
    model = network()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    result = prune(model)
    assert kept(result)["w1"] == 0
    stored = {tensor.name for tensor in result.model.graph.initializer}
    assert stored == {info.name for info in result.model.graph.input} - {"x"}
    assert {"w1", "b1", "w2", "b2"}.isdisjoint(stored)


def test_without_blocks_every_group_keeps_a_channel() -> None:
    assert min(kept(prune(network(), structure="channels")).values()) >= 1
    assert kept(prune(network(), min_channels=2))["w1"] >= 2


def test_a_block_that_matters_stays() -> None:
    assert kept(prune(network(faint=1.0)))["w1"] > 0


@pytest.mark.parametrize("compensate", ["bias", "none"])
def test_a_block_goes_without_a_refit_too(compensate: str) -> None:
    result = prune(network(faint=1e-6), compensate=compensate)
    assert kept(result)["w1"] == 0
    assert result.report.oracle.error < 1e-5


def test_a_block_goes_in_one_of_several_steps() -> None:
    result = prune(network(), steps=2)
    group = next(group for group in result.report.groups if group.name == "w1")
    assert (group.selection, group.ranked_by, group.kept) == ("block", "", 0)
    assert group.no_epsilon
    assert result.report.oracle.error < 1e-5


@pytest.mark.parametrize("target", [{"keep_params": 0.6}, {"keep_size": 0.6}, {"max_drift": 0.5}])
def test_a_block_goes_for_every_target(target: dict[str, float]) -> None:
    options = {name: value for name, value in BLOCKS.items() if name != "keep_macs"} | target
    result = onnxpfp.prune(network(), calibration=DATA, **options)
    assert kept(result)["w1"] == 0
    if "keep_params" in target:
        assert result.report.after.params <= 0.6 * result.report.before.params


def test_the_report_names_the_blocks(pruned: onnxpfp.Result) -> None:
    group = next(group for group in pruned.report.groups if group.name == "w1")
    assert (group.selection, group.ranked_by, group.widths_by, group.kept) == ("block", "", "measured", 0)
    rows = next(element.rows for element in pruned.report.page(full=True, wide=True) if isinstance(element, Facts))
    assert rows["blocks"].endswith("went with all channels, and a constant is left of each branch: w1")


def test_a_plan_without_a_group_is_replayed(pruned: onnxpfp.Result, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(pruned.plan.to_json())
    document = json.loads(path.read_text())
    assert document["version"] == 3
    assert document["initializers"]["w1"]["keep"]["0"] == []
    again = onnxpfp.prune(network(), calibration=DATA, from_plan=path, no_latency=True)
    assert kept(again) == kept(pruned)
    assert [node.output[0] for node in again.model.graph.node] == [n.output[0] for n in pruned.model.graph.node]
    assert {(g.selection, g.widths_by) for g in again.report.groups} == {("plan", "")}
    assert again.plan.initializers == pruned.plan.initializers


def test_a_file_without_a_block_is_verified_by_its_plan(pruned: onnxpfp.Result, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    onnx.save(pruned.model, tmp_path / "out.onnx")
    found = onnxpfp.verify(tmp_path / "in.onnx", tmp_path / "out.onnx", calibration=DATA, plan=pruned.plan).plan
    assert found is not None
    assert found.weights.misfits == ()


def test_a_plan_that_keeps_nothing_of_a_group_that_must_stay_is_refused(pruned: onnxpfp.Result, tmp_path: Path) -> None:
    document = json.loads(pruned.plan.to_json())
    for entry in document["initializers"].values():
        entry["keep"] = {}
    for name, axis in (
        ("w0", "0"),
        ("b0", "0"),
        ("w1", "1"),
        ("w2", "0"),
        ("b2", "0"),
        ("w3", "1"),
        ("w4", "0"),
        ("b4", "0"),
        ("w5", "1"),
    ):
        shape = list(nets.weights(network())[name].shape)
        document["initializers"].setdefault(name, {"shape": shape, "keep": {}})["keep"][axis] = []
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="keeps no index of an axis of which something must stay in this model"):
        onnxpfp.prune(network(), from_plan=path)


def test_all_blocks_of_a_trained_network_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing were lost without them: the oracle holds, and what is left is refitted."""
    measure = BegunCurves.towards

    def without_loss(*given: Any) -> tuple[ResponseCurve, ...]:
        curves = measure(*given)
        return tuple(replace(curve, drift=np.where(curve.widths == 0, 0.0, curve.drift)) for curve in curves)

    monkeypatch.setattr(BegunCurves, "towards", without_loss)
    result = onnxpfp.prune(
        nets.network("resnet"), calibration=nets.CALIBRATION, samples=96, **BLOCKS | {"keep_macs": 0.1}
    )
    gone = [name for name, count in kept(result).items() if count == 0]
    assert len(gone) > 1
    assert result.report.oracle.error < 1e-5
    before = onnx.load(nets.network("resnet"))
    assert len(result.model.graph.node) <= len(before.graph.node) - 3 * len(gone)
    refits = {record.name: record for record in result.report.refits}
    groups = {group.name: group for group in result.report.groups}
    constants = [refits[name] for group in gone for name in groups[group].consumers if name in refits]
    assert constants
    assert all(record.after <= record.before and record.ridge == np.inf for record in constants)


def bottleneck() -> ModelProto:
    """Two blocks, the first with three convolutions, and faint."""
    conv = "Conv <pads = [1,1,1,1]>"
    return nets.build(
        f"""g (float[N,3,8,8] x) => (float[N,5] y) {{
            s = {conv}(x, w0) q = Relu(s)
            a = Conv(q, w1) r = Relu(a) m = {conv}(r, w2) o = Relu(m) c = Conv(o, w3, b3) z = Add(c, q) t = Relu(z)
            d = {conv}(t, w4) e = Relu(d) f = {conv}(e, w5) g = Add(f, t) h = Relu(g)
            p = GlobalAveragePool(h) k = Flatten(p) y = Gemm <transB = 1> (k, w6)
        }}""",
        {
            "w0": (8, 3, 3, 3),
            "w1": (16, 8, 1, 1),
            "w2": (16, 16, 3, 3),
            "w3": 1e-3 * nets.noise(8, 16, 1, 1),
            "b3": (8,),
            "w4": (8, 8, 3, 3),
            "w5": (8, 8, 3, 3),
            "w6": (5, 8),
        },
    )


def transformer() -> ModelProto:
    """One block with four faint heads and a perceptron."""
    model = nets.build(
        """g (float[N,6,8] x) => (float[N,6,3] y) {
            n = LayerNormalization(x, g1, e1) a = MatMul(n, w1) b = MatMul(n, w2) c = MatMul(n, w3)
            as = Reshape(a, split) bs = Reshape(b, split) cs = Reshape(c, split)
            at = Transpose <perm = [0,2,1,3]> (as) bt = Transpose <perm = [0,2,3,1]> (bs)
            ct = Transpose <perm = [0,2,1,3]> (cs) s = MatMul(at, bt) p = Softmax <axis = -1> (s) m = MatMul(p, ct)
            mt = Transpose <perm = [0,2,1,3]> (m) j = Reshape(mt, join) o = MatMul(j, w4) h = Add(b4, o) z = Add(x, h)
            u = LayerNormalization(z, g2, e2) d = MatMul(u, w5) e = Tanh(d) f = MatMul(e, w6) g = Add(z, f)
            y = MatMul(g, w7)
        }""",
        {
            **dict.fromkeys(("g1", "e1", "g2", "e2", "b4"), (8,)),
            **dict.fromkeys(("w1", "w2", "w3"), (8, 8)),
            "w4": 1e-4 * nets.noise(8, 8),
            "w5": (8, 24),
            "w6": (24, 8),
            "w7": (8, 3),
        },
    )
    for name, numbers in (("split", [0, 0, 4, 2]), ("join", [0, 0, 8])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
    return model


@pytest.mark.parametrize(
    ("model", "data", "target", "gone", "left"),
    [
        (bottleneck(), DATA, 0.37, {"w1", "w2"}, ["s", "q", "z", "t"]),
        (transformer(), nets.noise(160, 6, 8), 0.45, {"w1"}, ["z", "u"]),
    ],
    ids=["bottleneck", "attention"],
)
def test_branches_of_several_layers_go_whole(
    model: ModelProto, data: nets.Array, target: float, gone: set[str], left: list[str]
) -> None:
    result = onnxpfp.prune(model, calibration=data, **BLOCKS | {"keep_macs": target})
    assert {name for name, count in kept(result).items() if not count} == gone
    assert [node.output[0] for node in result.model.graph.node][: len(left)] == left
    assert result.report.oracle.error < 1e-5
    assert result.report.after.macs <= target * result.report.before.macs
    again = onnxpfp.prune(model, calibration=data, from_plan=result.plan, no_latency=True)
    assert kept(again) == kept(result)


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        ("blocks", "--structure blocks lacks channels, which always may go"),
        ("channels,layers", "--structure 'layers' is none of channels, rank, blocks"),
        ("channels,channels", "--structure channels,channels names something twice"),
        ("", "--structure '' is none of channels, rank, blocks"),
    ],
)
def test_what_may_go_is_checked(structure: str, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        Options(structure=structure)


def test_blocks_take_measured_widths_and_data() -> None:
    with pytest.raises(OptionError, match="goes with --allocate measured, for --allocate uniform does not tell"):
        Options(structure="channels,blocks", allocate="uniform")
    with pytest.raises(CalibrationError, match="structure channels,blocks measures the data, and none are given"):
        onnxpfp.prune(network(), **BLOCKS)
    with pytest.raises(CalibrationError, match="structure channels,blocks holds samples out to decide on"):
        onnxpfp.prune(network(), calibration=DATA[:4], **BLOCKS)


def test_the_same_seed_gives_the_same_bytes(pruned: onnxpfp.Result) -> None:
    assert prune(network()).model.SerializeToString(deterministic=True) == pruned.model.SerializeToString(
        deterministic=True
    )


def test_noise_tells_nothing_of_blocks() -> None:
    result = onnxpfp.prune(network(), calibration="random", **BLOCKS)
    assert min(kept(result).values()) >= 1
    assert np.isfinite(result.report.oracle.error)


def test_no_op_of_a_block_that_goes_is_called() -> None:
    """Every call takes a millisecond, and nothing else any time."""
    model = network()
    analysis = problem(model).analysis
    branches = Branches.of(analysis)
    ops = {node.name: OpLatency(1.0, 0.0, 0.0, 1, 0.0) for node in model.graph.node}
    latencies = OpLatencies(ops, 0.0, units=1000.0)
    groups = analysis.graph.groups
    widths = np.array([group.channels.size for group in groups])
    cost = latencies.cost(analysis, branches)
    assert cost.total(widths) == 1000 * len(model.graph.node)
    number = [group.name for group in groups].index("w1")
    widths[number] = 0
    assert cost.total(widths) == 1000 * (len(model.graph.node) - 3)
    assert latencies.cost(analysis).total(widths) == 1000 * len(model.graph.node)
    assert latencies.by_op(analysis, widths, branches)["node_a"] == 0.0
