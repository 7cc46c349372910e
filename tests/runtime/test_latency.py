"""Latency of two models: turns, medians and what it may take, with clocks that the tests set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nets
import numpy as np
import pytest

from onnxpfp.runtime.latency import (
    ENOUGH_PAIRS,
    FEWEST_PAIRS,
    MOST_PAIRS,
    SHARE,
    LatencyUnknownError,
    RunTime,
    compare_latency,
    counts_cores,
)
from onnxpfp.runtime.session import open_session

FEED = {"x": np.zeros((1, 3, 8, 8), np.float32)}


@dataclass
class Stub:
    """A model whose n-th run takes what a function of n says.

    Attributes:
        name: Noted at every run.
        taken: Seconds of run n, all of them on a core, or both times.
        log: Names of the runs, of all stubs that share it.
        limits: Of the runs that are stopped after so long.
    """

    name: str
    taken: Callable[[int], float | RunTime]
    log: list[str]
    limits: list[float] = field(default_factory=list)
    runs: int = 0

    def timed(self, feeds: Mapping[str, Any]) -> RunTime:
        assert feeds is FEED
        self.runs += 1
        self.log.append(self.name)
        taken = self.taken(self.runs - 1)
        return taken if isinstance(taken, RunTime) else RunTime(taken, taken)

    def timed_within(self, feeds: Mapping[str, Any], limit: float) -> RunTime | None:
        self.limits.append(limit)
        taken = self.timed(feeds)
        return taken if taken.wall <= limit else None


def _stubs(original: Callable[[int], float | RunTime], pruned: Callable[[int], float | RunTime]) -> tuple[Stub, Stub]:
    log: list[str] = []
    return Stub("A", original, log), Stub("B", pruned, log)


def test_runs_alternate_after_each_model_was_warmed_up() -> None:
    original, pruned = _stubs(lambda n: 0.1, lambda n: 0.05)
    measured = compare_latency(original, pruned, FEED, 3.0)
    assert "".join(original.log[:10]) == "AB" + "ABBAABBA"
    assert original.runs == pruned.runs == measured.original.runs + 1
    assert (measured.original.median_ms, measured.pruned.median_ms) == pytest.approx((100, 50))
    assert measured.ratio.median == pytest.approx(0.5)


def test_short_runs_are_warmed_up_twice() -> None:
    original, pruned = _stubs(lambda n: 1e-4, lambda n: 1e-4)
    compare_latency(original, pruned, FEED, 3.0)
    assert "".join(original.log[:8]) == "AABB" + "ABBA"


@pytest.mark.parametrize(
    ("spread", "pairs"), [(0.0, ENOUGH_PAIRS), (0.019, ENOUGH_PAIRS), (0.026, 28), (0.05, MOST_PAIRS)]
)
def test_runs_end_once_the_median_of_the_ratios_is_known(spread: float, pairs: int) -> None:
    """Half of the ratios lie a half of the spread below the middle, half above: the quartiles are as far apart."""
    original, pruned = _stubs(lambda n: 1e-3, lambda n: 1e-3 * (1 + spread * (n % 2 - 0.5)))
    measured = compare_latency(original, pruned, FEED, 3.0)
    assert measured.pruned.runs == pairs
    assert measured.ratio.high - measured.ratio.low == pytest.approx(spread)


def test_a_machine_that_slows_down_changes_the_times_and_not_the_ratio() -> None:
    def busy(n: int) -> float:
        return 0.1 * (1 + n)

    original, pruned = _stubs(lambda n: 2 * busy(n), busy)
    ratio = compare_latency(original, pruned, FEED, 80.0).ratio
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_few_disturbed_runs_move_neither_median_nor_quartiles() -> None:
    original, pruned = _stubs(lambda n: 0.01, lambda n: 0.5 if n % 10 == 5 else 0.005)
    measured = compare_latency(original, pruned, FEED, 60.0)
    assert (measured.ratio.low, measured.ratio.median, measured.ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert measured.pruned.high_ms == pytest.approx(5)


def test_quartiles_are_the_spread() -> None:
    original, pruned = _stubs(lambda n: 0.1, lambda n: [0.04, 0.06][n % 2])
    measured = compare_latency(original, pruned, FEED, 4.0)
    assert measured.pruned.low_ms == pytest.approx(40)
    assert measured.pruned.high_ms == pytest.approx(60)
    assert (measured.ratio.low, measured.ratio.high) == pytest.approx((0.4, 0.6))


def _busy(cores: float, waits: tuple[float, ...]) -> Callable[[int], RunTime]:
    """A model that computes so long and waits differently in every run."""
    return lambda n: RunTime(cores + waits[n % len(waits)], cores)


def test_on_a_busy_machine_the_time_on_the_cores_counts() -> None:
    original, pruned = _stubs(_busy(0.012, (0.04, 0.05, 0.06)), _busy(0.024, (0.05, 0.02, 0.04)))
    measured = compare_latency(original, pruned, FEED, 60.0, threads=1)
    assert (measured.original.median_ms, measured.pruned.median_ms) == pytest.approx((12, 24))
    assert measured.ratio.median == pytest.approx(2.0)
    assert 0.5 < measured.waited < 0.9
    assert measured.pair == pytest.approx(0.12, abs=0.02)


def test_a_short_wait_leaves_wall_time() -> None:
    original, pruned = _stubs(_busy(0.1, (0.005,)), _busy(0.05, (0.003,)))
    measured = compare_latency(original, pruned, FEED, 60.0, threads=1)
    assert measured.original.median_ms == pytest.approx(105)
    assert measured.waited == pytest.approx(0.05, abs=0.01)


def test_several_threads_wait_where_a_run_takes_longer_than_the_one_with_the_least_waiting() -> None:
    def threads(n: int) -> RunTime:
        return RunTime(0.01 if n == 5 else 0.03, 0.02)

    original, pruned = _stubs(threads, lambda n: RunTime(0.015, 0.03))
    measured = compare_latency(original, pruned, FEED, 60.0, threads=2)
    assert (measured.original.median_ms, measured.pruned.median_ms) == pytest.approx((10, 15))
    assert measured.waited > 0.1


@pytest.mark.parametrize("wall", [0.0125, 0.0119, 0.007])
def test_threads_that_spin_without_work_are_no_sign_that_others_wait(wall: float) -> None:
    def spinning(n: int) -> RunTime:
        return RunTime(wall, 2 * wall) if n % 25 == 7 else RunTime(0.012, 0.0119)

    measured = compare_latency(*_stubs(spinning, lambda n: RunTime(0.01, 0.01)), FEED, 60.0)
    assert (measured.original.median_ms, measured.pruned.median_ms) == pytest.approx((12, 10))
    assert measured.waited < 0.02


def test_what_runs_elsewhere_has_no_time_on_the_cores() -> None:
    original, pruned = _stubs(_busy(0.001, (0.099,)), _busy(0.001, (0.049,)))
    measured = compare_latency(original, pruned, FEED, 60.0, threads=1, cores=False)
    assert (measured.ratio.median, measured.waited) == (pytest.approx(0.5), 0.0)
    assert not counts_cores(["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_clocks_that_are_too_coarse_say_so_or_do_not_count() -> None:
    with pytest.raises(LatencyUnknownError, match="a run is shorter than the clock can tell"):
        compare_latency(*_stubs(lambda n: 0.0, lambda n: 0.0), FEED, 3.0)
    measured = compare_latency(*_stubs(lambda n: RunTime(0.1, 0.0), lambda n: RunTime(0.1, 0.1)), FEED, 3.0)
    assert (measured.waited, measured.ratio.median) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("run", [0.001, 0.02, 0.1, 0.3])
def test_all_runs_fit_into_the_time(run: float) -> None:
    original, pruned = _stubs(lambda n: run, lambda n: run)
    compare_latency(original, pruned, FEED, 3.0)
    spent = run * len(original.log)
    assert spent <= 3.0
    assert spent <= SHARE * 3.0 or len(original.log) == 2 + 2 * FEWEST_PAIRS


def test_a_slow_network_gets_the_fewest_pairs_that_say_something() -> None:
    original, pruned = _stubs(lambda n: 0.5, lambda n: 0.45)
    measured = compare_latency(original, pruned, FEED, 3.0)
    assert measured.pruned.runs == FEWEST_PAIRS
    assert "".join(original.log) == "AB" + "ABBA"


def test_one_that_is_slower_still_is_not_measured_and_it_says_so() -> None:
    original, pruned = _stubs(lambda n: 0.8, lambda n: 0.7)
    with pytest.raises(LatencyUnknownError, match="it may take 3 s, and 2 pairs of runs beside one"):
        compare_latency(original, pruned, FEED, 3.0)
    assert "".join(original.log) == "AB"


def test_a_run_of_unknown_length_is_stopped_when_the_time_is_over() -> None:
    original, pruned = _stubs(lambda n: 1.0, lambda n: 5.0)
    with pytest.raises(LatencyUnknownError, match="it may take 3 s, and a single run takes longer"):
        compare_latency(original, pruned, FEED, 3.0)
    assert (original.limits, pruned.limits) == ([3.0], [2.0])


def test_sessions_tell_what_their_runs_take() -> None:
    one, two = (open_session(nets.chain(), threads=1, resting=True) for _ in range(2))
    measured = compare_latency(one, two, {"x": nets.noise(1, 3, 8, 8)}, 3.0)
    assert measured.original.runs == measured.pruned.runs >= FEWEST_PAIRS
    for each in (measured.original, measured.pruned):
        assert 0 < each.low_ms <= each.median_ms <= each.high_ms < 1000
    assert 0 < measured.ratio.low <= measured.ratio.median <= measured.ratio.high


def test_a_session_stops_a_run_that_takes_too_long() -> None:
    loop = nets.build(
        """g (float[N,64,64] x, int64 turns) => (float[N,64,64] y) {
            go = Constant <value = bool {1}> ()
            y = Loop (turns, go, x) <body = b (int64 i, bool c, float[N,64,64] a) => (bool d, float[N,64,64] e) {
                d = Identity(c)
                m = MatMul(a, a)
                e = Tanh(m)
            }>
        }""",
        {},
    )
    session = open_session(loop, threads=1)
    feed = {"x": nets.noise(1, 64, 64), "turns": np.array(10**9)}
    assert session.timed_within(feed, 0.05) is None
    few = session.timed_within({**feed, "turns": np.array(2)}, 30.0)
    assert few is not None
    assert few.wall > 0
    assert few.cores > 0
