"""`prune` with ranks: targets, what is written and verified, plans, and what is refused."""

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
from support.stacks import stack_shapes, stack_text

import onnxpfp
from onnxpfp import errors
from onnxpfp.low_rank.ranks import Choice
from onnxpfp.pipeline import drift_weights, size_target, steps
from onnxpfp.pipeline.calibration import Measured, RefitCalibration
from onnxpfp.pipeline.candidate import Candidate, Effort, build_candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import Decision, DriftWeights, decide_with_ranks
from onnxpfp.pipeline.network_steps import PrunedNetwork, WrittenNetwork
from onnxpfp.pipeline.plan import Plan

RANKED = {"structure": "channels,rank", "threads": 1, "no_latency": True, "round_to": 1}


def stack(dtype: type[np.floating[Any]] = np.float32) -> ModelProto:
    """A network whose middle layers have few directions that matter."""
    text = stack_text(3).replace("float[", f"{'float16' if dtype == np.float16 else 'float'}[")
    model = nets.build(text, stack_shapes(3), dtype=dtype)
    rng = np.random.default_rng(2)
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        if tensor.name in {"w2", "w3"}:
            columns = int(np.prod(shape[1:]))
            few = rng.standard_normal((shape[0], 5)) @ rng.standard_normal((5, columns)) / np.sqrt(columns)
            near = few + 0.02 * rng.standard_normal(few.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(near.reshape(shape).astype(dtype), tensor.name))
    return model


DATA = {"x": nets.noise(96, 3, 8, 8)}


def pruned(model: ModelProto | Path | str, **options: object) -> onnxpfp.Result:
    return onnxpfp.prune(model, **{**RANKED, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [{"keep_macs": 0.6}, {"keep_macs": 0.3}, {"keep_params": 0.5}])
def test_a_target_is_met_by_both(target: dict[str, float]) -> None:
    result = pruned(stack(), calibration=DATA, **target)
    report = result.report
    sides = (
        (report.before.macs, report.after.macs)
        if "keep_macs" in target
        else (report.before.params, report.after.params)
    )
    share = next(iter(target.values()))
    # A bias takes up what channels leave behind, where there was none.
    assert sides[1] <= share * sides[0]
    assert report.after.macs == nets.count_macs(result.model, {"x": DATA["x"][:1]})
    assert report.ranked
    assert report.oracle.error <= report.oracle.tolerance
    names = {node.name for node in result.model.graph.node}
    for each in report.ranked:
        assert {f"{each.name}/low_rank_first", f"{each.name}/low_rank_second"} <= names


def test_ranks_bring_what_channels_alone_do_not() -> None:
    test = nets.noise(64, 3, 8, 8, seed=9)
    model = stack()
    wanted = nets.run(model, test)
    drifts = [
        np.linalg.norm(nets.run(pruned(model, calibration=DATA, keep_macs=0.4, structure=how).model, test) - wanted)
        for how in ("channels,rank", "channels")
    ]
    assert drifts[0] < 0.8 * drifts[1]


def test_the_report_tells_the_layers() -> None:
    report = pruned(stack(), calibration=DATA, keep_macs=0.4).report
    document = json.loads(json.dumps(report.to_dict()))
    assert [each["name"] for each in document["ranked"]] == [each.name for each in report.ranked]
    assert all(0 < each.kept <= 1 for each in report.ranked if each.kept is not None)
    text = "\n".join(map(str, report.page(full=True, wide=True)))
    assert "low rank" in text


def test_nothing_is_factored_where_nobody_asks() -> None:
    report = pruned(stack(), calibration=DATA, keep_macs=0.4, structure="channels").report
    assert report.ranked == ()


def test_a_layer_that_is_excluded_stays_whole() -> None:
    report = pruned(stack(), calibration=DATA, keep_macs=0.9, exclude=("node_c",)).report
    assert "node_c" not in {each.name for each in report.ranked}


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_nothing(threads: int) -> None:
    one, other = (pruned(stack(), calibration=DATA, keep_macs=0.4, threads=count).model for count in (1, threads))
    assert one.SerializeToString() == other.SerializeToString()


def test_a_plan_is_replayed_with_data_and_without(tmp_path: Path) -> None:
    model = stack()
    result = pruned(model, calibration=DATA, keep_macs=0.4)
    path = tmp_path / "plan.json"
    path.write_text(result.plan.to_json(), encoding="utf-8")
    plan = Plan.read(path)
    assert (plan.ranks, plan.initializers) == (result.plan.ranks, result.plan.initializers)
    assert plan.ranks
    with_data = onnxpfp.prune(model, calibration=DATA, from_plan=path, threads=1, no_latency=True)
    without = onnxpfp.prune(model, from_plan=path, threads=1, no_latency=True)
    page = "\n".join(map(str, without.report.page(full=True, wide=True)))
    assert "low rank" in page
    assert "share of the variance of its outputs" not in page
    shapes = [
        {name: array.shape for name, array in nets.weights(each.model).items()} for each in (result, with_data, without)
    ]
    assert shapes[0] == shapes[1]
    assert {name: shape for name, shape in shapes[2].items() if "low_rank" in name} == {
        name: shape for name, shape in shapes[0].items() if "low_rank" in name
    }
    for each in (with_data, without):
        assert each.report.oracle.error <= each.report.oracle.tolerance
        assert [(one.name, one.rank) for one in each.report.ranked] == [
            (one.name, one.rank) for one in result.report.ranked
        ]
    np.testing.assert_array_equal(nets.run(result.model, DATA["x"]), nets.run(with_data.model, DATA["x"]))


def test_a_plan_for_another_network_is_refused() -> None:
    plan = pruned(stack(), calibration=DATA, keep_macs=0.4).plan
    for ranks in ({"nowhere": Choice(1, 2)}, {"w3": Choice(2, 2)}):
        with pytest.raises(errors.PlanError, match="rank"):
            onnxpfp.prune(stack(), from_plan=replace(plan, ranks=ranks), threads=1, no_latency=True)


@pytest.mark.parametrize(("weight", "cut", "highest"), [("w2", 1, 72), ("w2", 2, 32), ("w3", 0, 32), ("w4", 0, 10)])
def test_a_rank_above_what_a_plan_keeps_is_refused(weight: str, cut: int, highest: int) -> None:
    plan = Plan("", {}, ranks={weight: Choice(cut, highest)})
    result = onnxpfp.prune(stack(), from_plan=plan, threads=1, no_latency=True)
    first = next(t for t in result.model.graph.initializer if t.name.endswith("low_rank_first"))
    assert highest in first.dims[:2]
    above = replace(plan, ranks={weight: Choice(cut, highest + 1)})
    with pytest.raises(errors.PlanError, match=f"rank {highest + 1}, but what it keeps of it has at most {highest}"):
        onnxpfp.prune(stack(), from_plan=above, threads=1, no_latency=True)


def test_a_file_is_held_against_the_plan(tmp_path: Path) -> None:
    original, path = tmp_path / "m.onnx", tmp_path / "p.onnx"
    onnx.save(stack(), original)
    result = pruned(original, calibration=DATA, keep_macs=0.4)
    onnxpfp.save_result(result, path)
    report = onnxpfp.verify(original, path, calibration=DATA, plan=result.plan, threads=1, no_latency=True)
    assert not report.problems
    assert report.plan is not None
    assert not report.plan.weights.misfits
    without = onnxpfp.prune(original, from_plan=result.plan, threads=1, no_latency=True)
    onnxpfp.save_result(without, path)
    report = onnxpfp.verify(original, path, plan=result.plan, threads=1, no_latency=True)
    assert report.plan is not None
    assert "the original's numbers at the plan's ranks" in report.plan.compared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "rank"}, "lacks channels"),
        ({"structure": "channels,rank,rank"}, "something twice"),
        ({"structure": "channels,width"}, "'width' is none of"),
        (
            {"keep_latency": 0.5, "latency_table": "table.json"},
            "rank goes with no latency_table: a table has the times",
        ),
        ({"keep_latency": 0.5, "steps": 2}, "takes steps 1, not 2"),
        ({"allocate": "uniform"}, "by allocate uniform"),
        ({"compensate": "bias"}, "compensate bias"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        pruned(stack(), calibration=DATA, **options)


def test_noise_may_choose_them() -> None:
    report = pruned(stack(), calibration="random", samples=64, keep_macs=0.5, input_shapes={"x": (1, 3, 8, 8)}).report
    assert report.ranked
    assert report.compensation == "lstsq"


@pytest.mark.parametrize("data", [None, {"x": DATA["x"][:4]}], ids=["none", "few"])
def test_ranks_ask_for_samples(data: object) -> None:
    with pytest.raises(errors.CalibrationError, match="structure channels,rank"):
        pruned(stack(), calibration=data, keep_macs=0.5)


RESIDUAL = """g (float[N,3,8,8] x) => (float[N,10] y) {
    s = Conv <pads = [1,1,1,1]> (x, w0, b0)
    a = Conv <pads = [1,1,1,1]> (s, w1, b1)  r = Relu(a)  c = Conv <pads = [1,1,1,1]> (r, w2, b2)
    t = Add(s, c)
    d = Conv <pads = [1,1,1,1]> (t, w3, b3)  q = Relu(d)  e = Conv <pads = [1,1,1,1]> (q, w4, b4)
    u = Add(t, e)
    p = GlobalAveragePool(u)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w5, b5)
}"""
RESIDUAL_SHAPES = {
    "w0": (24, 3, 3, 3),
    "b0": (24,),
    "w5": (10, 24),
    "b5": (10,),
    **{f"w{number}": (24, 24, 3, 3) for number in range(1, 5)},
    **{f"b{number}": (24,) for number in range(1, 5)},
}


@pytest.mark.parametrize("target", [0.7, 0.4, 0.2, 0.05])
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_channels_ranks_and_branches_are_counted_exactly(quantity: str, target: float) -> None:
    """What the allocation counts is what the file has, whatever goes of it."""
    model = nets.build(RESIDUAL, RESIDUAL_SHAPES)
    # With more effort other shares of ranks may win, which leave every branch.
    options = {"structure": "channels,rank,blocks", f"keep_{quantity}": target, "effort": "low"}
    result = pruned(model, calibration=DATA, **options)
    report = result.report
    assert report.oracle.error <= report.oracle.tolerance
    assert report.after.macs == nets.count_macs(result.model, {"x": DATA["x"][:1]})
    before, after = (getattr(size, quantity) for size in (report.before, report.after))
    assert 0.8 * target < after / before <= target
    if target < 0.2:
        assert any(group.kept == 0 for group in report.groups)
    replayed = onnxpfp.prune(model, calibration=DATA, from_plan=result.plan, effort="low", threads=1, no_latency=True)
    np.testing.assert_array_equal(nets.run(replayed.model, DATA["x"]), nets.run(result.model, DATA["x"]))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("structure", ["channels,rank", "channels,rank,blocks"])
def test_bytes_are_counted_exactly(structure: str, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of the weights that the allocation counts are those of what is written, of the least of it, too."""
    counted: list[float] = []
    stored: list[int] = []
    bits, size = size_target._bits, size_target._bytes

    def count(parts: Any, network: PrunedNetwork) -> float:
        counted.append(bits(parts, network))
        return counted[-1]

    def measure(source: Any, written: WrittenNetwork, *noted: Any) -> int:
        stored.append(8 * sum(array.nbytes for array in nets.weights(written.whole).values()))
        return size(source, written, *noted)

    monkeypatch.setattr(size_target, "_bits", count)
    monkeypatch.setattr(size_target, "_bytes", measure)
    dtype = np.float16 if half else np.float32
    model, data = stack(dtype), {"x": DATA["x"].astype(dtype)}
    asked = int(0.6 * len(model.SerializeToString()))
    result = pruned(model, calibration=data, keep_size=asked, structure=structure)
    assert len(counted) > 1
    assert counted == stored
    assert result.report.ranked
    written = len(result.model.SerializeToString())
    assert 0.9 * asked < written == result.report.after.bytes <= asked
    replayed = onnxpfp.prune(model, calibration=data, from_plan=result.plan, threads=1, no_latency=True)
    np.testing.assert_array_equal(nets.run(replayed.model, data["x"]), nets.run(result.model, data["x"]))


def test_more_effort_takes_the_share_of_ranks_that_drifts_least() -> None:
    model = stack()
    low, normal = (pruned(model, calibration=DATA, keep_macs=0.6, effort=how).report for how in ("low", "normal"))
    assert (low.ranks_by, low.rank_weight) == ("measured", 1.0)
    assert normal.rank_weight == 0.5
    drifts = [report.drift.relative_error for report in (low, normal) if report.drift is not None]
    assert drifts[1] is not None
    assert drifts[0] is not None
    assert drifts[1] < drifts[0]
    assert normal.oracle.error <= normal.oracle.tolerance
    assert normal.after.macs <= 0.6 * normal.before.macs
    assert "the drift of ranks counted 0.5 times" in "\n".join(map(str, normal.page(full=True, wide=True)))


def test_choices_are_compared_after_refits_to_half_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def building(
        context: RunContext, measured: Measured, decision: Decision, effort: Effort | None = None
    ) -> Candidate:
        assert isinstance(measured.calibration, RefitCalibration)
        fitted.append(len(measured.calibration.setup.problem.fit))
        return build_candidate(context, measured, decision, effort)

    monkeypatch.setattr(drift_weights, "build_candidate", building)
    monkeypatch.setattr(steps, "build_candidate", building)
    pruned(stack(), calibration=DATA, keep_macs=0.6, effort="normal")
    *compared, last = fitted
    assert last >= drift_weights.LEAST_FITTED
    assert compared == [last // 2] * len(compared)
    assert len(compared) > 1
    fitted.clear()
    pruned(stack(), calibration={"x": DATA["x"][:60]}, keep_macs=0.6, effort="normal")
    assert len(set(fitted)) == 1


def test_streams_are_freed_and_drifts_raised_where_more_than_the_least_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[float, bool]] = []

    def deciding(context: RunContext, measured: Measured, weights: DriftWeights) -> Decision:
        tried.append((weights.power, weights.free_streams))
        return decide_with_ranks(context, measured, weights)

    monkeypatch.setattr(drift_weights, "decide_with_ranks", deciding)
    pruned(stack(), calibration=DATA, keep_macs=0.6, effort="normal")
    assert (1.0, True) in tried
    assert drift_weights.POWER in {power for power, _ in tried}
    tried.clear()
    pruned(stack(), calibration=DATA, keep_macs=0.6, effort="low")
    assert not tried


def test_a_second_step_takes_what_drifts_less() -> None:
    """Every choice is refitted and compared on all samples that may decide."""
    model = stack()
    seen = {"x": DATA["x"]}
    wanted = nets.run(model, seen["x"])
    results = [pruned(model, calibration=seen, keep_macs=0.3, steps=steps) for steps in (1, 2)]
    drifts = [np.linalg.norm(nets.run(result.model, seen["x"]) - wanted) for result in results]
    assert drifts[1] < 0.99 * drifts[0]
    report = results[1].report
    assert report.after.macs <= 0.3 * report.before.macs
    assert report.oracle.error <= report.oracle.tolerance
    assert "compared by what is left in 2 steps" in "\n".join(map(str, report.page(full=True, wide=True)))
    again = onnxpfp.prune(model, calibration=seen, from_plan=results[1].plan, threads=1, no_latency=True)
    np.testing.assert_array_equal(nets.run(again.model, seen["x"]), nets.run(results[1].model, seen["x"]))


def test_ranks_alone_do_not_win_where_they_cannot_reach_the_target() -> None:
    report = pruned(stack(), calibration=DATA, keep_macs=0.04, effort="normal").report
    assert report.rank_weight != 0.0
    assert report.after.macs <= 0.04 * report.before.macs
