"""Seconds by phase: each counts once, in order, and all of them add up."""

from __future__ import annotations

import time
from typing import Any

import nets
import pytest

import onnxpfp
from onnxpfp.progress import Clock


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let time pass by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_a_phase_within_another_interrupts_it(wait: Any) -> None:
    clock = Clock()
    wait(1)
    with clock.phase("outer"):
        wait(2)
        with clock.phase("inner"):
            wait(4)
            with clock.phase("outer"):
                wait(8)
            wait(16)
        wait(32)
    wait(64)
    with clock.phase("inner"):
        wait(128)
    assert clock.seconds == {"outer": 42.0, "inner": 148.0}


def test_the_order_is_that_of_the_beginnings(wait: Any) -> None:
    clock = Clock()
    with clock.phase("first"), clock.phase("second"):
        wait(1)
    assert list(clock.seconds.items()) == [("first", 0.0), ("second", 1.0)]


def test_a_phase_that_follows_itself_goes_on() -> None:
    told: list[tuple[str, int, int]] = []
    clock = Clock(lambda *news: told.append(news))
    for name in ("curves", "curves", "factors", "curves"):
        with clock.phase(name) as count:
            count(2, 6)
    again = [("curves", 2, 6), ("curves", 2, 6)]
    others = [("factors", 0, 1), ("factors", 2, 6), ("curves", 0, 1), ("curves", 2, 6)]
    assert told == [("curves", 0, 1), ("curves", 2, 6), *again, *others]


def test_a_phase_that_fails_has_taken_its_time(wait: Any) -> None:
    clock = Clock()

    def fail() -> None:
        with clock.phase("outer"), clock.phase("inner"):
            wait(1)
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    with clock.phase("next"):
        wait(2)
    assert clock.seconds == {"outer": 0.0, "inner": 1.0, "next": 2.0}


def test_it_tells_what_begins_how_far_it_is_and_what_goes_on() -> None:
    told: list[tuple[str, int, int]] = []
    clock = Clock(lambda *news: told.append(news))
    with clock.phase("one") as tell:
        tell(3, 4)
        with clock.phase("two") as tell_two:
            tell_two(1, 2)
        tell(4, 4)
    assert told == [("one", 0, 1), ("one", 3, 4), ("two", 0, 1), ("two", 1, 2), ("one", 3, 4), ("one", 4, 4)]


def test_a_phase_that_goes_on_inside_itself_stays_where_it_was() -> None:
    told: list[tuple[str, int, int]] = []
    clock = Clock(lambda *news: told.append(news))
    with clock.phase("one"):
        with clock.phase("one") as tell:
            tell(4, 4)
        with clock.phase("two"):
            pass
    assert told == [("one", 0, 1), ("one", 0, 1), ("one", 4, 4), ("two", 0, 1), ("one", 4, 4)]


def test_where_a_phase_fails_nothing_goes_on() -> None:
    told: list[str] = []
    clock = Clock(lambda phase, *_: told.append(phase))

    def fail() -> None:
        with clock.phase("outer"), clock.phase("inner"):
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert told == ["outer", "inner"]


@pytest.mark.parametrize("compensate", ["lstsq", "bias", "none"])
def test_compensation_is_apart_from_the_rewriting(compensate: Any) -> None:
    told: list[str] = []
    result = onnxpfp.prune(
        nets.chain(),
        calibration=nets.noise(24, 3, 8, 8),
        keep_macs=0.5,
        allocate="bound",
        compensate=compensate,
        progress=lambda phase, *_: told.append(phase),
    )
    assert ("compensation" in result.report.seconds) == (compensate != "none")
    assert "curves" not in result.report.seconds
    assert list(dict.fromkeys(told)) == list(result.report.seconds)


@pytest.mark.parametrize(
    ("network", "calibration"),
    [
        (nets.chain(), nets.noise(64, 3, 8, 8)),
        # Not every group is tried in every round.
        (nets.network("densenet"), nets.fmnist("calibration", 64)),
    ],
    ids=["chain", "densenet"],
)
def test_what_counts_comes_to_its_end(network: Any, calibration: Any) -> None:
    told: dict[str, tuple[int, int]] = {}

    def note(phase: str, done: int, total: int) -> None:
        before, whole = told.get(phase, (0, 1))
        assert before <= done <= total or total != whole
        # Who watches foresees the end by what was told before.
        assert phase != "curves" or (before <= done and total == whole) or whole == 1
        told[phase] = done, total

    onnxpfp.prune(network, calibration=calibration, keep_macs=0.5, progress=note)
    counted = {phase for phase, news in told.items() if news != (0, 1)}
    assert counted >= {"lossless", "calibration", "curves", "compensation", "verification"}
    assert all(told[phase][0] == told[phase][1] for phase in counted)


def test_each_trial_of_a_search_counts_once(wait: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of a model takes a second of this clock, and nothing else takes any."""
    from onnxpfp.runtime.session import Session

    run = Session.run

    def slow(self: Session, *arguments: Any) -> Any:
        wait(1)
        return run(self, *arguments)

    monkeypatch.setattr(Session, "run", slow)
    begin = time.perf_counter()
    result = onnxpfp.prune(nets.chain(), calibration=nets.noise(256, 3, 8, 8), max_drift=0.5)
    passed = time.perf_counter() - begin
    assert sum(result.report.seconds.values()) == passed
    assert {phase for phase, seconds in result.report.seconds.items() if seconds} >= {
        "load",
        "lossless",
        "calibration",
        "curves",
        "compensation",
        "search",
        "verification",
    }
