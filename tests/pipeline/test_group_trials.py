"""At how many widths groups are tried, and which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nets
import numpy as np
import pytest

import onnxpfp
from onnxpfp.pipeline import group_trials
from onnxpfp.pipeline.group_trials import FIRST, ROUNDS, SEEN, GroupTrial
from onnxpfp.refit.response_curves import GroupDrifts, Trials

Seen = list[tuple[Trials, dict[int, GroupDrifts]]]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What every round of trials found."""
    seen: Seen = []
    measure = Trials.measure

    def watched(trials: Trials, choices: Mapping[int, Any], progress: Any) -> dict[int, GroupDrifts]:
        found = measure(trials, choices, progress)
        seen.append((trials, found))
        return found

    monkeypatch.setattr(Trials, "measure", watched)
    return seen


def prune(name: str = "resnet", **options: Any) -> onnxpfp.Result:
    given = {"calibration": nets.CALIBRATION, "samples": 96, "threads": 1, "no_latency": True, "round_to": 4} | options
    return onnxpfp.prune(nets.network(name), **given)


def tried(rounds: Seen) -> dict[int, list[int]]:
    """How often each group was tried at each width."""
    counts: dict[int, list[int]] = {}
    for _, found in rounds:
        for number, group in found.items():
            known = counts.setdefault(number, [0] * group.drifts.size)
            counts[number] = [
                count + bool(np.isfinite(drift)) for count, drift in zip(known, group.drifts, strict=True)
            ]
    return counts


@pytest.mark.parametrize("target", [0.9, 0.6])
def test_a_group_is_tried_once_and_at_the_widths_that_it_would_get(rounds: Seen, target: float) -> None:
    prune(keep_macs=target)
    assert len(rounds) == ROUNDS
    streams = rounds[0][0].streams
    for number, counts in tried(rounds).items():
        assert max(counts) == 1
        assert 1 <= sum(counts) <= (1 if streams[number] else ROUNDS)
    assert tried(rounds).keys() == set(range(len(streams)))


def test_streams_are_tried_again_where_the_target_needs_them(rounds: Seen) -> None:
    prune(keep_macs=0.1)
    counts, streams = tried(rounds), rounds[0][0].streams
    assert any(sum(counts[number]) > 1 for number, stream in enumerate(streams) if stream)


def test_a_group_that_has_one_width_only_is_not_tried(rounds: Seen) -> None:
    prune(round_to=32, max_drift=0.3)
    counts = [len(trial.keeps) for trial in rounds[0][0].widths]
    assert 0 in counts
    assert tried(rounds).keys() == {number for number, count in enumerate(counts) if count}


@pytest.mark.parametrize("options", [{"max_drift": 0.3}, {"compensate": "bias", "allocate": "measured"}])
def test_where_many_targets_are_tried_or_nothing_is_refitted_all_widths_are(rounds: Seen, options: Any) -> None:
    prune(**options)
    counts = tried(rounds)
    assert all(all(each) for each in counts.values())
    assert counts.keys() == set(range(len(rounds[0][0].streams)))


def test_the_first_width_is_the_middle_or_one_at_which_something_is_lost() -> None:
    trial = GroupTrial((16, 4, 4), np.array([4, 8, 12]), np.full(3, np.nan), None, stream=False)
    assert trial.widths[trial.first_row(np.array([0.5, 0.2, 0.1]))].tolist() == [FIRST * 16]
    assert trial.first_row(np.array([0.5, SEEN / 2, 0.0])) == [0]
    assert trial.first_row(np.zeros(3)) == [0]
    assert trial.first_row(None) == [0, 1, 2]


def test_a_width_is_tried_unless_one_near_to_it_was() -> None:
    drifts = np.full(7, np.nan)
    drifts[3] = 0.1
    trial = GroupTrial((32, 2, 2), np.arange(2, 16, 2), drifts, None, stream=False)
    assert [trial.needs(row) for row in range(7)] == [True, True, False, False, False, True, True]


@pytest.mark.parametrize("target", [0.7, 0.5])
def test_few_trials_lead_to_a_network_as_good_as_all_of_them(monkeypatch, target: float) -> None:
    few = prune(keep_macs=target)

    monkeypatch.setattr(group_trials, "tries_all_widths", lambda _: True)
    full = prune(keep_macs=target)
    drifts = [result.report.drift for result in (few, full)]
    assert all(drifts)
    assert drifts[0].relative_error <= 1.1 * drifts[1].relative_error
