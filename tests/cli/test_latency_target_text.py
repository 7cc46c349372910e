"""What the report says of a target of latency: what was asked for, how it was reached, what to do where it was not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.pipeline.latency.target import LatencyTarget, LatencyTry
from onnxpfp.report.latency_target import asked_latency, latency_notes, reached_latency
from onnxpfp.runtime.latency import Latency, LatencyRatio

AIM = LatencyTarget(
    0.7, None, 8.0, "a board", 1, 4, given=False, error=0.031, foreseen=0.69, tries=(LatencyTry(0.7, 0.69, 0.71),)
)
GIVEN = replace(AIM, given=True, tries=())


def measured(share: float, samples: int = 4) -> LatencyFindings:
    return LatencyFindings(
        Latency(8.0, 7.9, 8.1, 50),
        Latency(8 * share, 5, 6, 50),
        LatencyRatio(share, share - 0.01, share + 0.01),
        samples=samples,
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "keep 70 % of the latency of 8 ms on a board"),
        ({"device": ""}, "keep 70 % of the latency of 8 ms on a device without a name"),
        ({"ms": 5.6}, "at most 5.6 ms in a run, 70 % of the latency of 8 ms on a board"),
        ({"ms": 99.0, "share": 1.0}, "at most 99 ms in a run, and the original takes 8 ms on a board"),
    ],
)
def test_what_was_asked_for(changes: dict[str, Any], text: str) -> None:
    assert asked_latency(replace(AIM, **changes)) == text


def test_how_it_was_reached() -> None:
    fit = (
        "the fitted times of the ops foresee 0.690 of the latency "
        "(the fit is off by at most 3.1 % where it was measured)"
    )
    assert reached_latency(AIM) == f"{fit}; measured: 0.710"
    several = replace(AIM, tries=(LatencyTry(0.7, 0.7, 0.8), LatencyTry(0.61, 0.6, 0.702)))
    assert reached_latency(several) == (
        f"{fit}; measured: 0.702, where 0.610 was asked of the fit; other tries: 0.700 asked, 0.800 measured"
    )
    assert reached_latency(GIVEN) == (
        f"{fit}; the table was given, so nothing was corrected: a run on its device must tell"
    )


@pytest.mark.parametrize(
    ("share", "tried", "step", "text"),
    [
        (0.72, 0.71, 16, None),
        (0.76, 0.71, 16, "measure it again on a machine that does nothing else"),
        (0.5, 0.5, 16, "none came closer without being too slow: a --round-to below 16 leaves more widths"),
        (0.5, 0.5, 1, "none came closer without being too slow"),
    ],
)
def test_a_target_that_was_missed(share: float, tried: float, step: int, text: str | None) -> None:
    aim = replace(AIM, tries=(LatencyTry(0.7, 0.69, tried),))
    notes = [*latency_notes(measured(share), aim, 1, step)]
    assert len(notes) == (text is not None)
    assert all(text is not None and text in note for note in notes)


def test_a_table_of_other_runs() -> None:
    assert not [*latency_notes(measured(0.9), GIVEN, 1, 16)]
    assert not [*latency_notes(measured(0.9), replace(GIVEN, threads=None), 2, 16)]
    assert [*latency_notes(measured(0.9, samples=1), GIVEN, None, 16)] == [
        "the latency in this report was not measured as the latency table was, with --latency-batch 4 --threads 1"
    ]
