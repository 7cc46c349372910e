"""The bound of a choice by held-out samples: what it says, where there is none, and that it is kept."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
from support.graphs import build

import onnxpfp
from onnxpfp.arrays import Arrays
from onnxpfp.calibrate.observer import Batch
from onnxpfp.comparison.certificate import mean_bound
from onnxpfp.pipeline.choice_bounds import ErrorObserver
from onnxpfp.report.groups import GroupReport
from onnxpfp.report.page import at_most

DATA = nets.noise(96, 3, 8, 8)
QUICK: dict[str, Any] = {"keep_macs": 0.7, "allocate": "uniform", "round_to": 1, "threads": 1}
QUICK |= {"compensate": "none"}
SCORES = ("mean-share", "energy", "reconstruction", "pfp", "l1")


def pruned(**options: Any) -> onnxpfp.Result:
    return onnxpfp.prune(nets.chain(), **{"calibration": DATA, **QUICK, **options})


def cut(result: onnxpfp.Result) -> list[GroupReport]:
    return [group for group in result.report.groups if group.kept < group.channels]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {},
            "with a confidence of 95 % for each group, the relative error of the output of a layer that reads it, in ",
        ),
        (
            {},
            "Of the choice alone, layer by layer, each with the inputs that it has in the original. Measured on 12 ",
        ),
        ({"compensate": "bias"}, "Of the choice alone, before means were folded, layer by layer"),
        ({"compensate": "lstsq"}, "Of the choice alone, before the refit, layer by layer"),
    ],
)
@pytest.mark.parametrize("score", ["mean-share", "energy", "l1"])
def test_it_says_what_it_is_of(score: str, options: dict[str, Any], says: str) -> None:
    result = pruned(score=score, **options)
    for group in cut(result):
        assert group.choice_error is not None
        assert (group.no_choice_error, group.ranked_by, group.selection) == ("", score, "deterministic")
        assert says in group.error_assumption
        # It is no bound of sensitivities, and stands beside that.
        none = f"the scores of --score {score} are no sensitivities"
        assert (group.epsilon, group.no_epsilon, group.assumption, group.sensitivity_sum) == (None, none, "", None)
    # The formula for the size of S is of sensitivities.
    assert not any("size formula" in note for note in result.report.notes)
    assert "size formula" not in str(list(result.report.page(full=True, wide=True)))


@pytest.mark.parametrize(
    ("options", "held_out"),
    [
        ({}, 12),
        ({"allocate": "bound"}, 12),
        ({"allocate": "measured"}, 12),
        ({"keep_macs": None, "max_drift": 0.7}, 24),
        *(({"score": score}, 12) for score in SCORES),
        ({"select": "sampled"}, 12),
    ],
)
def test_it_is_the_certificate_of_the_errors_on_the_held_out_samples(options: dict[str, Any], held_out: int) -> None:
    """Every output is a channel of a size and either sign: what it loses is lost at every input, at most all of it."""
    model = nets.build(
        "g (float[N,24] x) => (float[N,24] y) { h = MatMul(x, w1) y = MatMul(h, w2) }",
        {"w1": np.eye(24), "w2": np.diag(np.arange(1.0, 25.0))},
    )
    data = np.random.default_rng(0).choice([-1.0, 1.0], (96, 24)).astype(np.float32)
    result = onnxpfp.prune(model, calibration=data, **QUICK | options)
    (group,), promises = cut(result), result.report.promises
    assert promises is not None
    assert (promises.candidates > 1) == ("max_drift" in options)
    sizes, after = np.arange(1.0, 25.0), np.zeros(24)
    after[np.array(result.plan.initializers["w1"].keep[1])] = nets.weights(result.model)["w2"].sum(1)
    assert np.count_nonzero(after) == group.kept < 24
    if options.get("score") in {"mean-share", "energy"}:
        assert not after[: 24 - group.kept].any()
    error = np.minimum(np.square(after - sizes), np.square(sizes)).sum() / np.square(sizes).sum()
    assert group.choice_error == pytest.approx(
        np.sqrt(mean_bound(np.full(held_out, error), 0.05 / promises.candidates)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"calibration": DATA[:6]}, "no samples are held out"),
        ({"steps": 2}, "chosen in 2 steps, each from what the one before had left"),
        ({"calibration": "random"}, "the samples are noise"),
    ],
)
def test_where_there_is_none_the_reason_is_told(options: dict[str, Any], reason: str) -> None:
    groups = cut(pruned(**options))
    assert groups
    told = {(group.choice_error, group.no_choice_error, group.error_assumption) for group in groups}
    assert told == {(None, reason, "")}


def test_a_choice_without_data_or_from_a_plan_has_none() -> None:
    without = cut(pruned(calibration=None))
    assert {(group.choice_error, group.no_choice_error) for group in without} == {(None, "no samples are held out")}
    replayed = cut(pruned(from_plan=pruned().plan, keep_macs=None, allocate=None))
    reason = "a plan was replayed, and nothing scored"
    assert {(group.choice_error, group.no_choice_error) for group in replayed} == {(None, reason)}


def test_what_is_kept_whole_has_none() -> None:
    report = pruned(exclude=["w1"]).report
    whole = {group.no_choice_error for group in report.groups if group.kept == group.channels}
    assert whole <= {"nothing was chosen to go"}
    assert all(group.choice_error is not None for group in cut(pruned(exclude=["w1"])))


def test_a_vacuous_bound_is_said_beside_what_was_measured() -> None:
    report = pruned().report
    groups = [group for group in report.groups if group.epsilon is not None and group.epsilon >= 1]
    errors = [at_most(group.choice_error, 2) for group in groups if group.choice_error is not None]
    assert len(errors) == len(groups) == 2
    (note,) = (note for note in report.notes if "vacuous" in note)
    assert f"in {len(groups)} of 2 cut groups at this target: it promises nothing there" in note
    assert note.endswith(
        "measured on held-out samples, the choice alone costs a layer's output a relative error in the mean square of "
        f"at most {' to '.join(sorted(set(errors)))}"
    )


def test_a_product_of_two_activations_has_no_bound() -> None:
    model = build("""g (float[N,4,5] x) => (y) <float[5,16] wq, float[5,16] wk> {
        q = MatMul(x, wq)
        k = MatMul(x, wk)
        t = Transpose<perm=[0,2,1]>(k)
        y = MatMul(q, t)
    }""")
    groups = cut(onnxpfp.prune(model, calibration=nets.noise(64, 4, 5), **QUICK))
    assert groups
    assert all(group.choice_error is None and "multiplies two activations" in group.no_choice_error for group in groups)


def test_samples_in_batches_of_a_fixed_size_have_no_bound() -> None:
    text = """g (float[4,6] x) => (float[4,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"""
    model = nets.build(text, {"w1": (6, 16), "w2": (16, 3)})
    groups = cut(onnxpfp.prune(model, calibration=nets.noise(96, 6), **QUICK))
    assert groups
    assert all(group.choice_error is None and "batches of a fixed size" in group.no_choice_error for group in groups)


def test_trained_networks_have_bounds_that_say_something() -> None:
    groups = cut(onnxpfp.prune(nets.network("resnet"), calibration=nets.CALIBRATION, **QUICK))
    assert groups
    assert all(group.choice_error is not None and 0.1 < group.choice_error < 0.9 for group in groups)


def test_it_does_not_depend_on_where_the_samples_lie() -> None:
    """Samples come one by one, so that a time step is never taken for one."""
    text = """g (float[5,N,6] x) => (float[5,N,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"""
    model = nets.build(text, {"w1": (6, 24), "w2": (24, 3)})
    data = nets.noise(96, 5, 6)
    result = onnxpfp.prune(model, calibration={"x": data.swapaxes(0, 1)}, **QUICK)
    (group,) = cut(result)
    other = onnxpfp.prune(
        nets.build(text.replace("5,N", "N,5"), {"w1": (6, 24), "w2": (24, 3)}), calibration=data, **QUICK
    )
    assert group.choice_error == pytest.approx(cut(other)[0].choice_error, rel=1e-5)


@pytest.mark.parametrize("tokens", [5, 16])
def test_it_does_not_depend_on_where_the_samples_lie_inside(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Where the first axis has tokens, as many as there are samples maybe, they come one by one, else together."""
    weights = {"w1": (6, 24), "w2": (24, 3)}
    plain = (
        f"g (float[N,{tokens},6] x) => (float[N,{tokens},3] y) {{ h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }}"
    )
    turned = f"""g (float[N,{tokens},6] x) => (float[{tokens},N,3] y) {{
        t = Transpose <perm = [1,0,2]> (x)  h = MatMul(t, w1)  r = Relu(h)  y = MatMul(r, w2)
    }}"""
    sizes: list[int] = []
    see = ErrorObserver.see

    def listen(observer: ErrorObserver, tensors: Arrays, batch: Batch) -> None:
        sizes.append(batch.samples)
        see(observer, tensors, batch)

    monkeypatch.setattr(ErrorObserver, "see", listen)
    found: list[float | None] = []
    for text, expected in ((plain, [12]), (turned, [1] * 12)):
        sizes.clear()
        result = onnxpfp.prune(nets.build(text, weights), calibration=nets.noise(96, tokens, 6), **QUICK)
        assert sizes == expected
        found.append(cut(result)[0].choice_error)
    # The mean squares that errors are a share of are at other draws.
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_layer_that_reads_several_groups_has_the_error_of_all_that_goes_from_them() -> None:
    """Every output is a channel of one of two groups, as above."""
    text = """g (float[N,24] x) => (float[N,48] y) {
        a = MatMul(x, w1) b = MatMul(x, w2) c = Concat <axis = 1> (a, b) y = MatMul(c, w3)
    }"""
    sizes = np.concatenate([np.arange(1.0, 25.0), np.arange(1.5, 25.5)])
    model = nets.build(text, {"w1": np.eye(24), "w2": np.eye(24)[:, ::-1], "w3": np.diag(sizes)})
    data = np.random.default_rng(0).choice([-1.0, 1.0], (96, 24)).astype(np.float32)
    first, second = cut(onnxpfp.prune(model, calibration=data, **QUICK))
    lost = [np.square(sizes[start : start + 24 - group.kept]).sum() for start, group in ((0, first), (24, second))]
    expected = np.sqrt(mean_bound(np.full(12, sum(lost) / np.square(sizes).sum()), 0.05))
    assert first.choice_error == second.choice_error == pytest.approx(expected, rel=1e-6)


def test_a_held_out_sample_that_overflows_counts_in_full() -> None:
    """What it reads is infinite though the input is not; it decides nothing, so it must not stop a run either."""
    model = nets.build(
        "g (float[N,24] x) => (float[N,24] y) { h = MatMul(x, w1) y = MatMul(h, w2) }",
        {"w1": 2 * np.eye(24), "w2": np.diag(np.arange(1.0, 25.0))},
    )
    data = np.random.default_rng(0).choice([-1.0, 1.0], (96, 24)).astype(np.float32)
    certification = np.random.default_rng(1).choice([-1.0, 1.0], (20, 24)).astype(np.float32)
    certification[3] = 3e38
    (group,) = cut(onnxpfp.prune(model, calibration=data, certification=certification, **QUICK))
    sizes = np.square(np.arange(1.0, 25.0))
    losses = np.full(20, sizes[: 24 - group.kept].sum() / sizes.sum())
    losses[3] = 1.0
    assert group.choice_error == pytest.approx(np.sqrt(mean_bound(losses, 0.05)), rel=1e-6)
