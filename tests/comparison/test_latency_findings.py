"""When the latency of a pruned model is worth a word, and what the word is."""

from __future__ import annotations

import math

import nets
import pytest
from onnx import ModelProto

from onnxpfp.comparison import latency as module
from onnxpfp.comparison.latency import LatencyTrial, expected_ratio, is_slow, measure_latency, seconds_for_latency
from onnxpfp.comparison.slow_ops import SlowOp
from onnxpfp.runtime import profile
from onnxpfp.runtime.latency import Latency, LatencyComparison, LatencyRatio
from onnxpfp.runtime.providers import CPU, resolve_providers

FEED = {"x": nets.noise(1, 3, 8, 8)}


def _trial(kept_macs: float = 0.5) -> LatencyTrial:
    models = nets.chain(), nets.chain()
    return LatencyTrial(*models, models, FEED, resolve_providers(), 1, kept_macs)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch):
    """Let the models take what a test says."""

    def measures(low: float, median: float, high: float, ms: float = 2.0) -> None:
        ratio = LatencyRatio(median, low, high)
        taken = LatencyComparison(
            Latency(ms, ms, ms, 50), Latency(median * ms, low * ms, high * ms, 50), ratio, 0.0, ms / 500
        )
        monkeypatch.setattr(module, "compare_latency", lambda *arguments, **settings: taken)

    return measures


@pytest.mark.parametrize(
    ("low", "kept_macs", "slow"),
    [(0.76, 0.5, True), (0.74, 0.5, False), (1.01, 1.0, True), (0.99, 1.0, False), (0.86, 0.7, True)],
)
def test_half_of_what_the_multiply_adds_promise_is_enough(low: float, kept_macs: float, slow: bool) -> None:
    assert is_slow(LatencyRatio(1.5, low, 2.0), kept_macs) == slow
    assert expected_ratio(0.5) == 0.75


def test_it_takes_three_seconds_or_a_twentieth_of_the_run() -> None:
    assert [seconds_for_latency(run) for run in (0.0, 60.0, 1000.0)] == [3.0, 3.0, 50.0]


def test_a_network_that_is_fast_enough_gets_no_word(measuring) -> None:
    measuring(0.6, 0.65, 0.8)
    findings = measure_latency(_trial(), 3.0)
    assert findings.ratio == LatencyRatio(0.65, 0.6, 0.8)
    assert (findings.note, findings.slow_ops, findings.unmeasured, findings.threads) == ("", (), "", 1)


def test_one_that_is_not_is_profiled_and_the_spread_is_told(measuring) -> None:
    measuring(0.94, 0.96, 0.99)
    findings = measure_latency(_trial(), 30.0)
    assert findings.note.startswith(
        "the pruned model takes 0.96 of the original's time at 0.50 of its multiply-adds (0.94 to 0.99 in half of 50 "
        "pairs of runs), not even half of what these promise. "
    )
    assert findings.slow_ops
    assert all(math.isfinite(op.after_ms) for op in findings.slow_ops)


def test_what_passes_outside_of_ops_is_told(measuring) -> None:
    measuring(0.94, 0.96, 0.99, ms=500.0)
    note = measure_latency(_trial(), 30.0).note
    assert "Of 480 ms only 0." in note
    assert "are spent in ops, and pruning shortens nothing else" in note


def test_without_time_for_profiles_there_are_none(measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    def unasked(*arguments: object) -> None:
        raise AssertionError("there is no time")

    monkeypatch.setattr(module, "profile_kernels", unasked)
    measuring(0.94, 0.96, 0.99, ms=1500.0)
    findings = measure_latency(_trial(), 3.0)
    assert findings.note.endswith("There was no time to look at single ops")
    assert findings.slow_ops == ()
    assert findings.ratio is not None


def test_ops_causes_and_advice_are_named(measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: object) -> tuple[SlowOp, ...]:
        return (
            SlowOp("conv", "Conv", 1.0, 2.0, "the kernel computes 32 channels for its 18"),
            SlowOp("ReorderOutput", "ReorderOutput", 0.0, 1.0, "a change of layout"),
            SlowOp("fc", "Gemm", 1.0, 1.0, ""),
            SlowOp("pool", "MaxPool", 1.0, 1.0, "it has no multiply-adds"),
        )

    def kernels(models: list[ModelProto], *arguments: object) -> list[tuple[profile.KernelTime, ...]]:
        return [(profile.KernelTime("r_nchwc", "Conv", CPU, ((1, 3), (16, 3, 3, 3)), 2.0),) for _ in models]

    monkeypatch.setattr(module, "slow_ops", slow)
    monkeypatch.setattr(module, "profile_kernels", kernels)
    measuring(0.94, 0.96, 0.99)
    assert measure_latency(_trial(), 3.0).note.endswith(
        "these promise. These do not take less: Conv 'conv' 1 -> 2 ms (the kernel computes 32 channels for its 18), "
        "ReorderOutput 0 -> 1 ms (a change of layout), Gemm 'fc' 1 -> 1 ms (no cause seen) and 1 more op. What helps: "
        "--round-to 16 keeps channels in the blocks of these kernels, --exclude leaves the weights whole of ops that "
        "gain nothing"
    )


def test_real_models_are_measured() -> None:
    findings = measure_latency(_trial(1.0), 3.0)
    assert findings.ratio is not None
    assert 0 < findings.ratio.low <= findings.ratio.median <= findings.ratio.high < math.inf


def test_a_network_that_loads_too_slowly_is_not_run() -> None:
    assert measure_latency(_trial(), 1e-9).unmeasured.startswith("it may take 1e-09 s, and loading both models took ")
