"""What the report says of a bound, and why there is none."""

from __future__ import annotations

from typing import Any

import nets
import pytest

import onnxpfp
from onnxpfp.report.groups import GroupReport

DATA = nets.noise(96, 3, 8, 8)
QUICK: dict[str, Any] = {"keep_macs": 0.7, "allocate": "uniform", "round_to": 1, "threads": 1}


def cut(**options: Any) -> GroupReport:
    """The first group from which channels were chosen to go."""
    given = {"calibration": DATA, **QUICK, **options}
    report = onnxpfp.prune(nets.chain(), **{key: value for key, value in given.items() if value is not None}).report
    return next(group for group in report.groups if group.kept < group.channels)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"compensate": "none"},
            "Of the choice alone, layer by layer, each with the inputs that it has in the original",
        ),
        ({"compensate": "bias"}, "Of the choice alone, before means were folded, layer by layer"),
        ({"compensate": "lstsq"}, "Of the choice alone, before the refit, layer by layer"),
        ({}, "what the choice in this group changes in each sign part of a layer's sums"),
        ({}, "of the sums themselves it can be more, where the parts cancel"),
        ({}, "above K = 3 times the largest of the 72 samples seen"),
        ({}, "by PFP's formula: at most 0.0002 (8 eta eta* exp(-n/3))"),
        ({"samples": 16}, "by PFP's formula: not known to be below 1"),
        ({"kernel": "max"}, "above K = 3 times the entries that a channel has in a window, for --kernel max, times"),
        ({"select": "sampled", "delta": 0.01}, "it fails with a probability of at most 0.01 over the draws"),
        ({"calibration": None}, "weights alone: eps bounds how far the choice in this group moves any sum"),
        ({"calibration": None}, "nothing of the sum's own size on your data"),
    ],
)
def test_a_bound_says_what_it_is_of(options: dict[str, Any], says: str) -> None:
    group = cut(**options)
    assert group.epsilon is not None
    assert says in group.assumption
    assert not group.no_epsilon


def test_only_draws_can_fail_by_chance() -> None:
    assert "draws" not in cut(select="deterministic").assumption


def test_a_choice_in_steps_has_no_bound() -> None:
    group = cut(steps=2)
    assert (group.epsilon, group.assumption) == (None, "")
    assert group.no_epsilon == "chosen in 2 steps, each from what the one before had left"
    assert group.ranked_by in {"pfp", "energy"}


def test_a_replayed_plan_has_no_bound() -> None:
    plan = onnxpfp.prune(nets.chain(), calibration=DATA, **QUICK).plan
    report = onnxpfp.prune(nets.chain(), calibration=DATA, from_plan=plan, threads=1).report
    for group in report.groups:
        assert (group.epsilon, group.sensitivity_sum, group.widths_by) == (None, None, "")
        assert group.no_epsilon == "a plan was replayed, and nothing scored"
        assert group.ranked_by == ("plan" if group.kept < group.channels else "")
    assert not any("vacuous" in note or "size formula" in note for note in report.notes)


def test_a_group_that_lost_nothing_by_choice_has_no_bound() -> None:
    """Not even one of 0, which the written file would not keep, for the inputs of its readers drift."""
    model = nets.build(nets.CHAIN, {**nets.CHAIN_SHAPES, "b1": nets.np.full(8, 0.1)})
    weights = {t.name: t for t in model.graph.initializer}
    dead = nets.numpy_helper.to_array(weights["w1"]).copy()
    dead[3], bias = 0, nets.numpy_helper.to_array(weights["b1"]).copy()
    bias[3] = -1
    weights["w1"].CopyFrom(nets.numpy_helper.from_array(dead, "w1"))
    weights["b1"].CopyFrom(nets.numpy_helper.from_array(bias, "b1"))
    report = onnxpfp.prune(model, calibration=DATA, keep_macs=0.97, allocate="uniform", round_to=1, threads=1).report
    assert [removal.kind for removal in report.removed] == ["dead"]
    first = next(group for group in report.groups if group.name == "w1")
    assert (first.kept, first.channels) == (7, 8)
    assert (first.epsilon, first.no_epsilon, first.ranked_by) == (None, "nothing was chosen to go", "")


@pytest.mark.parametrize("allocate", ["bound", "uniform", "measured"])
def test_the_report_says_what_set_the_width(allocate: str) -> None:
    assert cut(allocate=allocate).widths_by == allocate
