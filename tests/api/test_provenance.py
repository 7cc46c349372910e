"""What a written file says of how it was made: which entries, of what, and that nothing else changes by them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.stacks import conv_stack

import onnxpfp
from onnxpfp.model.provenance import provenance_bytes, with_provenance
from onnxpfp.options import Options
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.pipeline.provenance import Provenance, options_given, target_given
from onnxpfp.score.criterion import Criterion

DATA = nets.noise(64, 3, 8, 8)
PLAIN: dict[str, Any] = {"threads": 1}
VERBS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "prune": (onnxpfp.prune, {"keep_macs": 0.5, "round_to": 1, "no_latency": True}, "prune --keep-macs 0.5"),
    "factorize": (onnxpfp.factorize, {"energy": 0.5, "round_to": 1, "no_latency": True}, "factorize --energy 0.5"),
    "sparsify": (onnxpfp.sparsify, {"keep_weights": 0.5, "select": "hybrid"}, "sparsify --keep-weights 0.5"),
}
verbs = pytest.mark.parametrize("verb", VERBS)


def network() -> ModelProto:
    model = conv_stack(3)
    model.metadata_props.add(key="author", value="somebody")
    return model


def made(verb: str, model: ModelProto | Path, **more: Any) -> Any:
    function, options, _ = VERBS[verb]
    return function(model, **{"calibration": DATA, **PLAIN, **options, **more})


def entries(model: ModelProto) -> dict[str, str]:
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert len(found) == len(model.metadata_props)
    return found


@verbs
def test_a_file_says_what_made_it(verb: str, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    result = made(verb, tmp_path / "in.onnx")
    told = entries(result.model)
    drift = result.report.drift
    assert list(told) == [
        "author",
        *(f"onnxpfp.{name}" for name in ("version", "source_sha256", "target")),
        *list(told)[4:],
    ]
    assert told["onnxpfp.version"] == onnxpfp.__version__
    assert told["onnxpfp.source_sha256"] == hashlib.sha256((tmp_path / "in.onnx").read_bytes()).hexdigest()
    assert told["onnxpfp.target"] == VERBS[verb][2]
    options = {"prune": {"round-to": 1}, "factorize": {"round-to": 1}, "sparsify": {"select": "hybrid"}}
    assert json.loads(told["onnxpfp.options"]) == options[verb]
    share, samples = told["onnxpfp.agreement"].split(" on ")
    assert 0 <= drift.top1_agreement - float(share) < 1e-4
    assert samples == f"{drift.samples} held-out samples"


@verbs
def test_nothing_else_of_the_file_changes_by_it(verb: str) -> None:
    told, silent = made(verb, network()), made(verb, network(), no_metadata=True)
    assert entries(silent.model) == {"author": "somebody"}
    for result in (told, silent):
        assert result.report.after.bytes == len(result.model.SerializeToString())
    alike = told.model
    del alike.metadata_props[1:]
    assert alike.SerializeToString() == silent.model.SerializeToString()


@verbs
def test_the_same_input_and_options_give_the_same_bytes(verb: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        onnx.save(network(), tmp_path / name / f"{name}.onnx")
    one, two = (made(verb, tmp_path / name / f"{name}.onnx").model for name in ("one", "two"))
    assert one.SerializeToString() == two.SerializeToString()
    assert str(tmp_path) not in str(entries(one))


@pytest.mark.parametrize(("verb", "all_of_it"), [("prune", {"keep_macs": 1.0}), ("sparsify", {"keep_weights": 1.0})])
def test_a_file_from_which_nothing_went_keeps_its_bytes(verb: str, all_of_it: dict[str, float], tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "in.onnx")
    result = made(verb, tmp_path / "in.onnx", **all_of_it)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    assert entries(result.model) == {"author": "somebody"}


def test_several_steps_are_told_in_their_order(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "0.onnx")
    for number, verb in enumerate(("prune", "factorize", "sparsify"), 1):
        onnxpfp.save_result(made(verb, tmp_path / f"{number - 1}.onnx"), tmp_path / f"{number}.onnx")
    told = entries(onnx.load(tmp_path / "3.onnx"))
    sums = [hashlib.sha256((tmp_path / f"{number}.onnx").read_bytes()).hexdigest() for number in range(3)]
    found = [told[f"onnxpfp.{step}source_sha256"] for step in ("1.", "2.", "")]
    assert found == sums
    assert [told[f"onnxpfp.{step}target"].split()[0] for step in ("1.", "2.", "")] == ["prune", "factorize", "sparsify"]
    assert told["author"] == "somebody"
    silent = made("prune", tmp_path / "3.onnx", no_metadata=True)
    assert entries(silent.model) == {"author": "somebody"}
    assert silent.report.after.bytes == len(silent.model.SerializeToString())


@pytest.mark.parametrize("telling", [None, "random"])
def test_no_agreement_is_told_that_was_not_measured_on_data(telling: str | None) -> None:
    told = entries(made("prune", network(), calibration=telling).model)
    assert "onnxpfp.agreement" not in told
    assert told["onnxpfp.target"] == "prune --keep-macs 0.5"


def test_a_replay_notes_what_its_plan_was_made_by(tmp_path: Path) -> None:
    options = {"score": "l1", "compensate": "bias", "round_to": 1}
    first = made("prune", network(), **options)
    (tmp_path / "plan.json").write_text(first.plan.to_json())
    again = onnxpfp.prune(
        network(), calibration=DATA, from_plan=tmp_path / "plan.json", compensate="bias", threads=1, no_latency=True
    )
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.plan.made_by == first.plan.made_by
    silent = made("prune", network(), **options, no_metadata=True)
    assert silent.plan.made_by == first.plan.made_by
    assert made("prune", network(), **options, keep_macs=0.5).plan.made_by == first.plan.made_by
    other = onnxpfp.prune(network(), from_plan=first.plan, threads=1, no_latency=True)
    # Without samples nothing was folded into biases, and that is what it says.
    assert json.loads(entries(other.model)["onnxpfp.options"]) == {"round-to": 1, "score": "l1"}
    assert entries(other.model)["onnxpfp.target"] == "prune --keep-macs 0.5"


@pytest.mark.parametrize("verb", ["prune", "sparsify"])
def test_a_replay_that_gives_the_same_file_notes_the_same(verb: str) -> None:
    options = {"compensate": "none"} if verb == "prune" else {}
    first = made(verb, network(), samples=40, **options)
    function = VERBS[verb][0]
    again = function(network(), from_plan=first.plan, threads=1, **({"no_latency": True} if verb == "prune" else {}))
    assert entries(again.model)["onnxpfp.agreement"] == entries(first.model)["onnxpfp.agreement"]
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert again.report.after.bytes == first.report.after.bytes
    silent = function(network(), from_plan=first.plan, threads=1, no_metadata=True)
    assert entries(silent.model) == {"author": "somebody"}


def test_a_replay_of_a_plan_that_does_not_say(tmp_path: Path) -> None:
    plan = json.loads(made("prune", network()).plan.to_json())
    del plan["made_by"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    told = entries(onnxpfp.prune(network(), from_plan=tmp_path / "plan.json", threads=1, no_latency=True).model)
    assert told["onnxpfp.target"] == "prune --from-plan"
    assert "onnxpfp.options" not in told


@pytest.mark.parametrize("made_by", ["text", {"target": 1}, [1]])
def test_a_plan_that_says_it_wrongly_is_damaged(made_by: object, tmp_path: Path) -> None:
    plan = json.loads(made("prune", network()).plan.to_json())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "made_by": made_by}))
    with pytest.raises(onnxpfp.errors.PlanError, match="the plan is damaged"):
        onnxpfp.prune(network(), from_plan=tmp_path / "plan.json")


@pytest.mark.parametrize("share", [0.85, 0.6])
def test_a_file_with_its_entries_is_no_larger_than_was_asked_for(share: float) -> None:
    model = network()
    budget = int(share * len(model.SerializeToString()))
    result = made("prune", model, keep_macs=None, keep_size=float(budget))
    size = len(result.model.SerializeToString())
    assert entries(result.model)["onnxpfp.target"] == f"prune --keep-size {budget}"
    assert result.report.after.bytes == size <= budget
    assert size > budget - 2_000


@pytest.mark.parametrize("data", [None, DATA])
def test_the_least_that_an_error_names_can_be_reached_with_its_entries(data: object) -> None:
    with pytest.raises(onnxpfp.errors.TargetUnreachableError) as caught:
        made("prune", network(), calibration=data, keep_macs=None, keep_size=0.01)
    least = int(caught.value.hint.removeprefix("ask for ").split()[0].replace(",", ""))
    result = made("prune", network(), calibration=data, keep_macs=None, keep_size=float(least))
    assert least - 10 < len(result.model.SerializeToString()) <= least


def test_a_file_that_is_larger_by_what_it_says_alone_tells_so() -> None:
    model = nets.chain()
    result = onnxpfp.prune(model, keep_macs=0.99, round_to=1, threads=1, no_latency=True)
    silent = onnxpfp.prune(model, keep_macs=0.99, round_to=1, threads=1, no_latency=True, no_metadata=True)
    before = len(model.SerializeToString())
    assert silent.report.after.bytes < before
    larger = [note for note in result.report.notes if "larger than the original" in note]
    assert bool(larger) == (result.report.after.bytes > before)
    assert all("--no-metadata" in note for note in larger)


class _Mine(Criterion):
    name = "mine"
    needs = frozenset()

    def score(self, data: Any) -> Any:
        return data


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (Options(), {}),
        (Options(keep_macs=0.3, threads=4, providers="cpu", timeout=5.0, no_latency=True, batch_size=None), {}),
        (Options(include=["b", "a"], seed=3), {"include": ["b", "a"], "seed": 3}),
        (Options(include=(), exclude=[]), {}),
        (Options(input_shapes={"x": (1, 3)}), {"input-shape": {"x": [1, 3]}}),
        (Options(sample_axes={"x": None}), {"sample-axis": {"x": None}}),
        (Options(score=_Mine()), {"score": "mine"}),
        (Options(keep_classes=[np.int64(2), 0], seed=np.int64(3)), {"keep-classes": [2, 0], "seed": 3}),  # type: ignore[arg-type,list-item]
        (
            Options(keep_classes=np.arange(2), share={"a": np.float32(0.5)}),
            {"keep-classes": [0, 1], "share": {"a": 0.5}},
        ),  # type: ignore[arg-type,dict-item]
        (Options(keep_classes={2, 10, 1}), {"keep-classes": [1, 10, 2]}),  # type: ignore[arg-type]
        (Options(keep_latency=0.5, latency_table="/a/table.json"), {}),
        (Options(custom_ops=()), {}),
        (FactorizeOptions(scheme="spatial"), {"scheme": "spatial"}),
        (SparsifyOptions(sparse_initializers=True), {"sparse-initializers": True}),
    ],
)
def test_options_that_say_what_is_made_are_noted(options: Any, given: dict[str, Any]) -> None:
    assert options_given(options) == given


@pytest.mark.parametrize(
    ("options", "target"),
    [
        (Options(), "prune --keep-macs 0.7"),
        (Options(min_agreement=0.95), "prune --min-agreement 0.95"),
        (Options(keep_macs=np.float32(0.75)), "prune --keep-macs 0.75"),  # type: ignore[arg-type]
        (Options(keep_latency=0.5, latency_table="/a/table.json"), "prune --keep-latency 0.5 --latency-table"),
        (Options(score="feature-statistics", dfs=0.3), "prune"),
        (Options(score="feature-statistics", dfs=0.3, keep_params=0.5), "prune --keep-params 0.5"),
    ],
)
def test_the_target_is_noted_as_it_is_typed(options: Options, target: str) -> None:
    assert target_given("prune", options) == target


def test_the_longest_entries_are_no_shorter_than_any() -> None:
    drifts = [made("prune", network(), keep_macs=share).report.drift for share in (0.9, 0.3)]
    provenance = Provenance.of("prune", Options(), "0" * 64, telling=True, silent=False)
    model = network()
    for drift in drifts:
        longest = provenance_bytes(model, provenance.longest(drift))
        assert longest >= provenance_bytes(model, provenance.measured(drift, model)) > provenance_bytes(model, {}) == 0


def test_the_bytes_are_those_that_are_added() -> None:
    model = network()
    entries_ = {"version": "1", "target": "x" * 300, "agreement": "1.0000 on 3 samples"}
    for _ in range(3):
        told = with_provenance(model, entries_)
        assert told.ByteSize() - model.ByteSize() == provenance_bytes(model, entries_)
        model = told
    assert with_provenance(network(), {}) == network()
    plain = network()
    assert with_provenance(plain, {}) is plain
