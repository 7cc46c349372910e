"""`onnxpfp.sweep`: each model is that of `prune` for its target alone; what is the same for all is measured once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support import bodies, class_nets
from support import made_up_latencies as device
from support.stacks import conv_stack

import onnxpfp
from onnxpfp import errors
from onnxpfp.options import Options, PruningOptions
from onnxpfp.options.declaration import declared
from onnxpfp.options.sweep import SweepOptions
from onnxpfp.pipeline import group_trials, several_targets
from onnxpfp.pipeline.scores.file import ScoresFile
from onnxpfp.report.page import Facts, Table
from onnxpfp.report.swept import SweptModel, pareto_optimal

DATA = nets.noise(96, 3, 8, 8)
PLAIN: dict[str, Any] = {"threads": 1, "no_latency": True}
QUICK: dict[str, Any] = {**PLAIN, "round_to": 1}


def network() -> ModelProto:
    return conv_stack(3)


def alike(model: ModelProto, target: str, values: list[float], **options: Any) -> onnxpfp.SweepResult:
    """Sweep, and hold every model, plan and result against those of `prune`."""
    result = onnxpfp.sweep(model, **options, **{target: values})
    assert list(result.results) == values
    for value, one in result.results.items():
        alone = onnxpfp.prune(model, **options, **{target: value})
        assert one.stored.SerializeToString() == alone.stored.SerializeToString()
        assert one.unchanged == alone.unchanged
        assert one.plan.to_json() == alone.plan.to_json()
        assert one.report.drift == alone.report.drift
        assert one.report.oracle == alone.report.oracle
        assert one.report.target == alone.report.target
        assert one.report.notes == alone.report.notes
    return result


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": DATA},
        {"calibration": DATA, "round_to": "auto"},
        {},
        {"calibration": "random"},
        {"calibration": DATA, "allocate": "bound", "score": "reconstruction"},
        {"calibration": DATA, "structure": "channels,rank,blocks"},
        {"calibration": DATA, "structure": "channels,rank", "effort": "normal"},
        {"calibration": DATA, "effort": "high"},
        {"calibration": DATA, "steps": 2},
        {"calibration": DATA, "compensate": "none"},
        {"calibration": DATA, "select": "sampled", "allocate": "bound", "seed": 3},
        {"calibration": DATA, "keep_classes": "0,3-8"},
        {"keep_classes": "cat,2", "class_names": ["cat", *"abcdefghi"], "class_axes": ["y:1"]},
        {"calibration": DATA, "share": {"w1": 0.75}},
        {"calibration": DATA, "share": ["w1=0.5", "w3=0.8"], "steps": 2, "keep_classes": [1, 2]},
        {"calibration": DATA, "share": {"w2": 0.5}, "structure": "channels,rank"},
        {"share": {"w1": 0.5}},
    ],
    ids=lambda options: " ".join(f"{name} {value}" for name, value in options.items() if name != "calibration"),
)
def test_every_model_is_that_of_a_pruning_to_its_target_alone(options: dict[str, Any]) -> None:
    alike(network(), "keep_macs", [0.8, 0.4, 0.6], **(QUICK | options))


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("keep_params", [0.7, 0.5]),
        ("keep_size", [0.8, 60_000.0, 0.5]),
        ("keep_macs", [1.0, 0.6]),
        ("max_drift", [0.6, 0.8]),
        ("min_agreement", [0.6, 0.5]),
    ],
)
def test_targets_of_every_kind(target: str, values: list[float]) -> None:
    alike(network(), target, values, calibration=nets.noise(256, 3, 8, 8), **QUICK)


def test_a_target_of_latency_by_a_table(tmp_path: Path) -> None:
    form = onnxpfp.latency(network(), models=tmp_path / "points", round_to=1)
    form.table.save(tmp_path / "table.json")
    device.fill_in(tmp_path / "table.json", tmp_path / "points", {"x": nets.noise(1, 3, 8, 8)}, ops=True)
    table = str(tmp_path / "table.json")
    result = alike(network(), "keep_latency", [0.8, 0.6], calibration=DATA, latency_table=table, **QUICK)
    foreseen = [each.cost("keep_latency") for each in result.report.models]
    assert all(cost is not None and 0.4 < cost <= value for cost, value in zip(foreseen, [0.8, 0.6], strict=True))
    alike(network(), "latency_ms", [1e9], calibration=DATA, latency_table=table, **QUICK)


@pytest.mark.parametrize("name", ["weights in both branches", *list(bodies.LOOPS)[:1]])
def test_weights_in_bodies(name: str) -> None:
    model = bodies.build_bodies((bodies.IFS | bodies.LOOPS)[name][0])
    alike(model, "keep_macs", [0.8, 0.6], calibration=bodies.samples(name), **QUICK)
    scores = onnxpfp.measure_scores(model, calibration=bodies.samples(name), threads=1, round_to=1).scores
    alike(model, "keep_macs", [0.8, 0.6], calibration=bodies.samples(name), scores=scores, **QUICK)


@pytest.fixture(scope="module")
def scores() -> ScoresFile:
    return onnxpfp.measure_scores(network(), calibration=DATA, threads=1, round_to=1).scores


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": DATA},
        {"calibration": DATA, "allocate": "bound", "share": {"w1": 0.75}},
        {},
        {"compensate": "bias", "select": "mixed"},
        {"share": {"w3": 0.5}, "compensate": "none"},
    ],
    ids=lambda options: " ".join(options) or "alone",
)
def test_every_model_by_a_file_of_scores_is_that_of_a_pruning_by_it(
    scores: ScoresFile, options: dict[str, Any]
) -> None:
    alike(network(), "keep_macs", [0.8, 1.0, 0.6], scores=scores, **(QUICK | options))


def test_scores_are_read_in_place_of_measuring_them(
    scores: ScoresFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores.save(tmp_path / "scores.npz")
    monkeypatch.setattr("onnxpfp.pipeline.scoring.calibrate", lambda *_, **__: pytest.fail("something was measured"))
    result = onnxpfp.sweep(network(), scores=tmp_path / "scores.npz", keep_macs=[0.8, 0.5], **QUICK)
    assert list(result.results) == [0.8, 0.5]
    with pytest.raises(errors.OptionError, match="keep_classes leaves another"):
        onnxpfp.sweep(network(), scores=scores, keep_macs=[0.8, 0.5], keep_classes="0-4", **QUICK)
    with pytest.raises(errors.ScoresError, match="is to be used"):
        onnxpfp.sweep(network(), scores=scores, keep_macs=[0.8, 0.5], calibration=DATA, kernel="max", **QUICK)


def test_the_report_says_what_changes_for_the_classes_that_stay() -> None:
    model = class_nets.softmax()
    result = alike(model, "keep_macs", [1.0, 0.6], keep_classes="0,3,4", calibration=DATA, **QUICK)
    report = result.report
    assert report.classes is not None
    assert report.classes.kept == (0, 3, 4)
    assert report.before == result.results[1.0].report.before
    elements = [*report.page(full=True, wide=True)]
    (facts,) = (element.rows for element in elements if isinstance(element, Facts))
    assert facts["classes"] == "3 of 6 stay: 0 -> 0, 3-4 -> 1-2"
    assert facts["interface"] == "output 'y': axis 1 from 6 to 3; output 'logits': axis 1 from 6 to 3"
    assert facts["softmax"].startswith("'node_y' is over the classes that stay")
    (table,) = (element for element in elements if isinstance(element, Table))
    assert table.rows[0][0] == "kept classes"


def test_the_report_names_the_file_where_classes_go(tmp_path: Path) -> None:
    onnx.save(class_nets.softmax(), tmp_path / "in.onnx")
    given: Any = {"calibration": DATA, "keep_macs": [1.0, 0.6], **QUICK}
    for classes in (None, "0,3,4"):
        assert onnxpfp.sweep(tmp_path / "in.onnx", keep_classes=classes, **given).report.file == str(
            tmp_path / "in.onnx"
        )


def test_a_target_that_the_shares_put_out_of_reach_says_so() -> None:
    options: dict[str, Any] = {"calibration": DATA, "share": {"w1": 1.0, "w2": 1.0}, **QUICK}
    result = onnxpfp.sweep(network(), keep_macs=[1.0, 0.3], **options)
    assert list(result.results) == [1.0]
    with pytest.raises(errors.TargetUnreachableError) as alone:
        onnxpfp.prune(network(), keep_macs=0.3, **options)
    assert result.report.models[1].reason == f"{alone.value} ({alone.value.hint})"
    assert "lower share" in result.report.models[1].reason


def test_what_no_target_has_a_say_in_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, tried = list[int](), list[tuple[int, int]]()
    begin, measure = several_targets.begin, group_trials.Trials.measure

    def counting(*given: Any) -> Any:
        begun.append(1)
        return begin(*given)

    def noting(self: Any, choices: Any, progress: Any) -> Any:
        tried.extend((number, rows[0]) for number, rows in choices.items() if not callable(rows))
        return measure(self, choices, progress)

    monkeypatch.setattr(several_targets, "begin", counting)
    monkeypatch.setattr(group_trials.Trials, "measure", noting)
    onnxpfp.sweep(network(), calibration=DATA, keep_macs=[0.9, 0.7, 0.5, 0.3], **QUICK)
    assert len(begun) == 1
    assert tried
    assert len(tried) == len(set(tried))


def test_a_target_that_cannot_be_met_has_its_reason_and_the_others_are_made() -> None:
    result = onnxpfp.sweep(network(), calibration=DATA, keep_macs=[0.7, 0.001, 0.5], **QUICK)
    assert list(result.results) == [0.7, 0.5]
    one, none, other = result.report.models
    assert (one.exit_code, none.exit_code, other.exit_code, result.report.exit_code) == (0, 3, 0, 3)
    with pytest.raises(errors.TargetUnreachableError) as alone:
        onnxpfp.prune(network(), calibration=DATA, keep_macs=0.001, **QUICK)
    assert none.reason == f"{alone.value} ({alone.value.hint})"
    assert (none.report, none.file, none.cost("keep_macs"), none.error) == (None, None, None, None)


def test_a_model_that_does_not_pass_its_verification_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = onnxpfp.api.prune.verify_pruned  # type: ignore[attr-defined]
    calls = list[int]()

    def failing(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise errors.VerificationError("it is another network")
        return verify(*given, **more)

    monkeypatch.setattr("onnxpfp.api.prune.verify_pruned", failing)
    result = onnxpfp.sweep(network(), keep_macs=[0.7, 0.5], **QUICK)
    assert list(result.results) == [0.5]
    assert (result.report.models[0].reason, result.report.exit_code) == ("it is another network", 4)


def test_a_network_of_which_nothing_can_go_is_an_error() -> None:
    with pytest.raises(errors.TargetUnreachableError, match="nothing in it can be pruned"):
        onnxpfp.sweep(network(), keep_macs=[0.7, 0.5], exclude=["*"], **QUICK)


def test_too_few_samples_for_one_promise_are_an_error_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxpfp.api.sweep.begin_parts", lambda _: pytest.fail("something was measured"))
    with pytest.raises(errors.CalibrationError, match=r"min_agreement 0.999"):
        onnxpfp.sweep(network(), calibration=DATA, min_agreement=[0.5, 0.999], **QUICK)


def test_without_targets_there_are_three() -> None:
    result = onnxpfp.sweep(network(), **QUICK)
    assert list(result.results) == [0.9, 0.7, 0.5]
    assert result.report.asked == "keep_macs"


def test_the_report_has_a_point_for_every_model() -> None:
    result = onnxpfp.sweep(network(), calibration=DATA, keep_macs=[0.7, 0.001], **QUICK)
    document = json.loads(json.dumps(result.report.to_dict(), allow_nan=False))
    point, missing = document["points"]
    report = result.results[0.7].report
    assert (document["format"], document["asked"]) == ("onnxpfp-sweep", "keep_macs")
    assert (point["macs"], point["params"], point["bytes"]) == (
        report.after.macs,
        report.after.params,
        report.after.bytes,
    )
    assert point["share"] == report.after.macs / report.before.macs <= 0.7
    assert report.drift is not None
    assert (point["error"], point["agreement"]) == (report.drift.relative_error, report.drift.top1_agreement)
    assert point["pareto"] is True
    assert (missing["macs"], missing["pareto"], missing["exit_code"]) == (None, False, 3)
    assert document["reports"][0]["after"]["macs"] == point["macs"]
    assert document["reports"][1] is None


def test_what_is_promised_is_what_was_asked_for_where_that_was_searched() -> None:
    result = onnxpfp.sweep(network(), calibration=nets.noise(256, 3, 8, 8), min_agreement=[0.5], **QUICK)
    (model,) = result.report.models
    assert model.promised_agreement == 0.5
    assert model.agreement is not None
    assert model.agreement > 0.5


class _Known(SweptModel):
    """A model of a known cost and error."""

    known: tuple[float, float]

    def cost(self, name: str) -> float:
        return self.known[0]

    @property
    def error(self) -> float:
        return self.known[1]


def known(cost: float, error: float) -> _Known:
    model = _Known(cost, "", None, None)
    object.__setattr__(model, "known", (cost, error))
    return model


def test_the_best_are_those_that_no_other_is_better_than() -> None:
    rng = np.random.default_rng(0)
    pairs = np.round(rng.random((60, 2)), 1)
    models = [known(*pair) for pair in pairs.tolist()]
    best = pareto_optimal(models, "keep_macs")
    for model in models:
        dominated = any((other <= model.known).all() and (other < model.known).any() for other in pairs)
        assert (model in best) != dominated


def test_options_are_those_of_prune_with_several_values_of_a_target() -> None:
    of_prune, of_sweep = dict(declared(Options)), dict(declared(SweepOptions))
    assert of_prune.keys() == of_sweep.keys()
    shared = {name for name in of_prune if of_prune[name] == of_sweep[name]}
    assert shared == {name for name, _ in declared(PruningOptions)} | {"latency_table"}
    assert {name for name, option in of_sweep.items() if option.several} == of_prune.keys() - shared
    same: dict[str, Any] = {"score": "l1", "steps": 2, "seed": 5, "keep_classes": "0-2", "share": {"a": 0.5}}
    given = SweepOptions(keep_size=[0.5, 4e6], **same)
    assert [(each.title, each.options) for each in given.targets] == [
        ("size-0.5", Options(keep_size=0.5, **same)),
        ("size-4000000", Options(keep_size=4e6, **same)),
    ]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"keep_macs": [0.5], "keep_params": [0.5]}, "give values of one target: keep_macs or keep_params, not both"),
        ({"keep_macs": [0.5, 0.5]}, "keep_macs names 0.5 twice"),
        ({"keep_macs": []}, "keep_macs takes a list of values"),
        ({"keep_macs": 0.5}, "keep_macs takes a list of values"),
        ({"keep_macs": [0.5, 1.5]}, r"keep_macs 1.5 is outside"),
        ({"min_agreement": [0.9], "steps": 2}, "so they go with steps 1"),
        ({"max_drift": [0.5], "share": {"w1": 0.5}}, "share sets widths, and max_drift finds"),
        ({"class_names": ["a"]}, "class_names goes with keep_classes"),
        ({"share": {"w11": 0.5}}, "share 'w11' matches no node"),
        ({"keep_classes": "0,12"}, "there are 10 classes"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(errors.OptionError, match=why):
        onnxpfp.sweep(network(), calibration=DATA, **given)


def test_a_file_and_its_name_stand_in_the_report(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    report = onnxpfp.sweep(tmp_path / "in.onnx", keep_macs=[0.5], **QUICK).report
    assert report.file == str(tmp_path / "in.onnx")
    assert (report.models[0].title, report.models[0].file) == ("macs-0.5", None)
