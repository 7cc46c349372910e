"""Random graphs with channels that cost nothing: what goes can be told of the original, and replayed on it."""

from __future__ import annotations

from collections import Counter

import pytest
from finding import bearable, planted
from hypothesis import given, settings
from hypothesis import strategies as st
from support.composer import compose
from support.composer_checks import examine
from test_grown_graphs import FRESH, QUICK

import onnxpfp
from onnxpfp.errors import OnnxPfpError


def check(data: st.DataObject, seen: Counter[str]) -> None:
    """Prune a graph in one step or two; the plan says of every group what stays, and leads to the same size."""
    case = examine(data.draw(compose()))
    steps, calibration = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([None, "random"]))
    share = data.draw(st.sampled_from([0.5, 0.8, 0.95]))
    model = planted(case, every=data.draw(st.booleans()))
    if not case.graph.count or not bearable(model):
        return
    try:
        result = onnxpfp.prune(
            model,
            calibration=calibration,
            keep_macs=share,
            steps=steps,
            round_to=1,
            samples=40 if calibration else None,
        )
    except OnnxPfpError as error:
        seen[type(error).__name__] += 1
        return
    seen["pruned"] += 1
    seen["lossless"] += any(group.selection == "lossless" for group in result.report.groups)
    assert all(group.kept for group in result.report.groups)
    again = onnxpfp.prune(model, from_plan=result.plan)
    assert again.report.after.macs == result.report.after.macs
    assert [group.kept for group in again.report.groups] == [group.kept for group in result.report.groups]


def test_grown_graphs_replay_their_plans() -> None:
    seen: Counter[str] = Counter()

    @settings(QUICK, max_examples=40)
    @given(data=st.data())
    def every(data: st.DataObject) -> None:
        check(data, seen)

    every()
    assert seen["pruned"] > 15, seen
    assert seen["lossless"] > 0, seen


@pytest.mark.slow
@settings(FRESH, max_examples=400)
@given(data=st.data())
def test_fresh_graphs_replay_their_plans(data: st.DataObject) -> None:
    check(data, Counter())
