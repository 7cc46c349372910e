"""What the report says of bounds inside of bodies: each body was scored on what it was fed itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.bodies import IFS, LOOPS, build_bodies, samples

import onnxpfp
from onnxpfp.data.splits import HELD_OUT, SHARE

MODELS = IFS | LOOPS
BRANCHES = ["weights in both branches", "weights in one branch", "weights around it too"]
STEPS = [
    "a convolution in a Loop",
    "a Loop that the data end",
    "a Scan backwards along another axis",
    "a branch in a Loop",
]
COUNT = 160
FIT = COUNT - 2 * min(HELD_OUT, COUNT // SHARE)


def report(name: str, **options: Any) -> onnxpfp.Report:
    given: dict[str, Any] = {"calibration": samples(name, COUNT), "keep_macs": 0.7, "round_to": 1, "threads": 1}
    return onnxpfp.prune(build_bodies(MODELS[name][0]), **given | {"allocate": "uniform"} | options).report


def assumptions(found: onnxpfp.Report) -> dict[str, str]:
    """What bounds rest on, by place; empty for the main graph."""
    bounded = [group for group in found.groups if group.epsilon is not None]
    assert bounded
    return {group.name.rpartition(": ")[0]: group.assumption for group in bounded}


def runs_seen(text: str) -> int:
    match = re.search(r"the largest of the (\d+) (samples|runs of it) seen", text)
    assert match
    assert (match[2] == "samples") == text.startswith("eps")
    return int(match[1])


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_counts_the_samples_that_take_it(name: str) -> None:
    found = report(name)
    texts = assumptions(found)
    runs = {body.place: body.runs for body in found.bodies if not body.reason}
    assert texts.keys() - {""} == runs.keys()
    for place, text in texts.items():
        assert text.startswith(f"{place}: eps bounds" if place else "eps bounds")
        assert "not known, for" not in text
    seen = {place: runs_seen(text) for place, text in texts.items()}
    assert seen.pop("", FIT) == FIT
    assert all(0 < count < FIT for count in seen.values())
    if len(seen) == 2:
        assert sum(seen.values()) == FIT


@pytest.mark.parametrize("name", STEPS)
def test_no_probability_is_known_of_steps_that_come_from_one_sample(name: str) -> None:
    found = report(name)
    for place, text in assumptions(found).items():
        assert text.startswith(f"{place}: eps bounds")
        assert "by PFP's formula: not known, for several of them come from one input or sequence" in text
    assert found.samples_failure is None
    few = report(name, calibration=samples(name, 16))
    notes = [note for note in few.notes if "the size formula asks for" in note]
    assert notes
    for note in notes:
        assert "runs of it; the size formula asks for" in note
        assert note.endswith("no probability is known of these, for several of them come from one input or sequence")


@pytest.mark.parametrize("name", ["weights in both branches", "a Scan backwards along another axis"])
def test_where_all_weights_lie_in_bodies_the_samples_are_the_runs_of_the_first(name: str) -> None:
    found = report(name)
    assert found.samples_of == next(body.place for body in found.bodies if not body.reason)
    assert found.samples == runs_seen(assumptions(found)[found.samples_of])
    assert report("weights around it too").samples_of == ""


@pytest.mark.parametrize("name", MODELS)
def test_without_data_doubts_name_the_body(name: str) -> None:
    found = report(name, calibration=None)
    for group in found.groups:
        place, _, _ = group.name.rpartition(": ")
        assert (group.epsilon is None) == bool(group.no_epsilon) == (not group.assumption)
        if group.assumption:
            assert group.assumption.startswith(f"{place}: weights alone" if place else "weights alone")
        if "is an input of" in group.no_epsilon:
            assert group.no_epsilon.endswith(
                f"is an input of the body {place}" if place else "is an input of the model"
            )


@pytest.mark.parametrize("name", [*BRANCHES, *STEPS])
def test_what_was_compensated_is_named_as_everywhere(name: str) -> None:
    found = report(name, compensate="lstsq")
    refitted = {record.name for record in found.refits if record.after < record.before}
    assert refitted
    for group in found.groups:
        assert set(group.refitted) == refitted & set(group.consumers)
    assert refitted & {name for group in found.groups for name in group.refitted}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("score", ["mean-share", "pfp"])
def test_choices_have_an_error_around_branches_and_none_in_them(name: str, score: str) -> None:
    for group in report(name, score=score).groups:
        place, _, _ = group.name.rpartition(": ")
        if group.ranked_by:
            assert group.no_choice_error == ("no samples are held out" if place else "")
            assert bool(group.error_assumption) == (group.choice_error is not None) == (not place)


@pytest.mark.parametrize("name", STEPS)
def test_choices_have_no_error_where_steps_come_from_one_sample(name: str) -> None:
    reasons = {group.no_choice_error for group in report(name).groups if group.ranked_by}
    assert reasons == {"several of its samples come from one input or sequence"}
