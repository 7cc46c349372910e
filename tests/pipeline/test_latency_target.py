"""Targets of latency on a made-up device that is not what the fit says: the measured share decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nets
import pytest
from support import made_up_latencies as device

import onnxpfp
from onnxpfp.errors import CalibrationError, OptionError, TargetUnreachableError
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.latency import correction, target
from onnxpfp.pipeline.latency.step_choice import ALIKE
from onnxpfp.pipeline.latency.table import LatencyTable

FEED = {"x": nets.noise(1, 3, 8, 8)}
TEXT = """g (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1) r = Relu(a)
    c = Conv <pads = [1,1,1,1]> (r, w2) s = Relu(c)
    p = GlobalAveragePool(s) f = Flatten(p) y = Gemm <transB = 1> (f, w3) }"""
DATA = nets.noise(64, 3, 8, 8)


def network() -> Any:
    return nets.build(TEXT, {"w1": (48, 3, 3, 3), "w2": (64, 48, 3, 3), "w3": (5, 64)})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    folder = tmp_path_factory.mktemp("device")
    onnxpfp.latency(network(), models=folder / "points").table.save(folder / "table.json")
    device.fill_in(folder / "table.json", folder / "points", FEED, ops=True)
    return LatencyTable.read(folder / "table.json")


@pytest.fixture
def run_on(table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], list[float]]:
    """Put a device in the place of this machine: its table is the made-up one, what it measures a function of that."""

    def install(measured: Callable[[float], float]) -> list[float]:
        shares: list[float] = []
        whole = device.latency(network(), FEED)

        def measure(_: object, model: Any) -> float:
            shares.append(measured(device.latency(model, FEED) / whole))
            return shares[-1]

        monkeypatch.setattr(target, "measure_table", lambda _: table)
        monkeypatch.setattr(correction, "_measured_share", measure)
        return shares

    return install


def prune(**options: Any) -> Any:
    return onnxpfp.prune(network(), calibration=DATA, threads=1, no_latency=True, **options)


def test_one_try_is_enough_where_the_fit_is_right(run_on: Any) -> None:
    shares = run_on(lambda share: share)
    result = prune(keep_latency=0.6)
    (only,) = result.report.latency_target.tries
    # Each of the steps that are in question is tried, and the one that is taken is run once more with its refits.
    assert shares[-1] == only.measured
    assert only.measured in shares[:-1]
    assert only.share == 0.6
    assert only.foreseen == result.report.latency_target.foreseen == pytest.approx(only.measured, rel=1e-4)
    assert abs(only.measured - 0.6) <= correction.CLOSE * 0.6
    assert device.latency(result.model, FEED) / device.latency(network(), FEED) == pytest.approx(only.measured)


@pytest.mark.parametrize("off", [0.8, 1.25])
def test_a_share_that_was_measured_to_be_off_is_corrected(run_on: Any, off: float) -> None:
    shares = run_on(lambda share: share**off)
    result = prune(keep_latency=0.6, round_to=4)
    *others, taken = result.report.latency_target.tries
    assert others
    assert {each.measured for each in (*others, taken)} <= {*shares}
    assert abs(taken.measured / 0.6 - 1) <= correction.CLOSE < abs(others[0].measured / 0.6 - 1)
    # What is written is what was measured last, and refitted.
    written = device.latency(result.model, FEED) / device.latency(network(), FEED)
    assert written**off == pytest.approx(taken.measured, rel=0.02)
    assert result.report.compensation == "lstsq"
    assert result.report.refits


def test_steps_of_widths_are_gone_down_until_it_is_fast_enough(run_on: Any) -> None:
    """A device on which most widths are no faster: the next that is comes out below the target."""
    run_on(lambda share: 0.64 if share > 0.5 else 0.49)
    *others, taken = prune(keep_latency=0.6).report.latency_target.tries
    assert taken.measured == 0.49
    assert {each.measured for each in others} == {0.64}


def test_what_nothing_went_from_takes_as_long_as_the_original(run_on: Any) -> None:
    """Its file stays as it is, so a rewritten form that is faster is no result."""
    shares = run_on(lambda share: 0.7 * share)
    result = prune(keep_latency=0.9)
    tries = result.report.latency_target.tries
    assert [each.measured for each in tries if each.share == 1] == [1.0]
    assert {each.measured for each in tries if each.share < 1} <= {*shares}
    assert result.unchanged is None
    assert tries[-1].measured == max(each.measured for each in tries if each.share < 1)


def test_between_a_share_that_is_too_slow_and_one_that_is_fast_lies_another(run_on: Any) -> None:
    """What is asked for at first leads to too little, all of it to too much, and each of them back to the other."""
    run_on(lambda share: share - 0.25 * (share < 0.92))
    aim = prune(keep_latency=0.9, round_to=1).report.latency_target
    assert aim.tries[-1].measured > 0.9 * (1 - correction.WITHIN) > aim.tries[0].measured


def test_proportion_does_not_lead_outside_of_what_was_too_fast_and_too_slow(run_on: Any) -> None:
    """On a device whose latency rises four times as fast as foreseen, proportion alone overshoots on both sides."""
    run_on(lambda share: min(max(0.66 + 4 * (share - 0.69), 0.3), 0.98))
    *others, taken = prune(keep_latency=0.66, round_to=1).report.latency_target.tries
    assert min(each.measured for each in others) < 0.66 < max(each.measured for each in others)
    assert abs(taken.measured / 0.66 - 1) <= correction.WITHIN


def test_several_steps_are_measured_as_they_are(run_on: Any) -> None:
    run_on(lambda share: share)
    result = prune(keep_latency=0.6, steps=2)
    assert abs(result.report.latency_target.tries[-1].measured / 0.6 - 1) <= correction.WITHIN


def test_what_is_too_slow_with_its_refits_is_pruned_further(run_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it can be where the machine was busy, whether at the tries or at what came of them."""
    run_on(lambda share: share)
    with_refits(lambda share: 1.25 * share, monkeypatch)
    *others, taken = prune(keep_latency=0.6, round_to=1).report.latency_target.tries
    assert others[-1].measured > (1 + correction.WITHIN) * 0.6 >= taken.measured
    assert taken.share < others[-1].share


def test_what_stays_too_slow_with_its_refits_is_refused(run_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run_on(lambda share: share)
    with_refits(lambda share: 0.9, monkeypatch)
    with pytest.raises(TargetUnreachableError, match=r"0\.900 of the original's .* is the least that was measured"):
        prune(keep_latency=0.6, round_to=1)


def with_refits(measured: Callable[[float], float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a device measure something else where layers are refitted."""
    bare = correction._measured_share

    def measure(context: RunContext, model: Any) -> float:
        share = bare(context, model)
        return share if context.options.compensate == "none" else measured(share)

    monkeypatch.setattr(correction, "_measured_share", measure)


def test_what_does_not_come_down_is_refused(run_on: Any) -> None:
    run_on(lambda share: 0.5 + 0.5 * share)
    with pytest.raises(TargetUnreachableError, match=r"the target is 0.4 of the latency, but 0\.\d+ of the original's"):
        prune(keep_latency=0.4)


def test_milliseconds_are_a_share_of_the_table(run_on: Any, table: LatencyTable) -> None:
    run_on(lambda share: share)
    aim = prune(latency_ms=0.5 * table.ms).report.latency_target
    assert (aim.share, aim.ms, aim.original_ms) == (pytest.approx(0.5), 0.5 * table.ms, table.ms)


def test_what_is_fast_enough_stays_as_it_is(run_on: Any, table: LatencyTable) -> None:
    shares = run_on(lambda share: share)
    result = prune(latency_ms=2 * table.ms)
    assert result.unchanged is not None
    assert not shares
    assert result.report.latency_target.share == 1


def test_latency_is_measured_here(tmp_path: Path) -> None:
    """No figure is asked for, for machines differ; but all of it is there, and the file is pruned."""
    result = onnxpfp.prune(network(), calibration=DATA, threads=1, keep_latency=0.8, latency_batch=4)
    aim = result.report.latency_target
    assert aim.original_ms > 0
    assert not aim.given
    assert all(each.measured > 0 for each in aim.tries)
    assert result.report.latency.samples == 4
    assert any(group.kept < group.channels for group in result.report.groups)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"keep_latency": 0}, OptionError, "keep_latency 0"),
        ({"keep_latency": 0.5, "keep_macs": 0.5}, OptionError, "give one target"),
        ({"latency_ms": -1}, OptionError, "no number of milliseconds"),
        ({"latency_table": "t.json"}, OptionError, "goes with"),
        ({"keep_latency": 0.5, "latency_batch": 100}, CalibrationError, "measures runs of 100 samples, and there are"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        prune(**options)


def test_of_the_steps_that_lose_the_least_the_coarsest_are_taken(run_on: Any) -> None:
    """On a device without blocks."""
    run_on(lambda share: share)
    report = prune(keep_latency=0.6).report
    assert report.alignment.source == "measured"
    start, _, rest = report.alignment.reason.partition("; ")
    assert start.startswith(
        "the coarsest of those that are not clearly much slower and lose the least, to 10%, at 0.6 of"
    )
    taken, others = float(start.rpartition(" ")[2]), [float(each.split()[0]) for each in rest.split(", ")]
    assert others == sorted(others)
    # Both are printed with three digits.
    assert taken <= 1.01 * ALIKE * min(taken, *others)
    step = report.alignment.of_group(64)
    assert all(
        group.kept == group.channels or group.kept % step == 0 for group in report.groups if group.channels == 64
    )


@pytest.mark.parametrize(("seconds", "share"), [(0.1, 0.7), (2.0, 0.9)])
def test_short_runs_are_measured_in_rounds(seconds: float, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of three counts; where one round takes long, it is the only one."""
    ratios, clock = iter([0.9, 0.7, 0.6]), itertools.count(0.0, seconds)

    def run_interleaved(*_: object) -> SimpleNamespace:
        return SimpleNamespace(ratio=SimpleNamespace(median=next(ratios)))

    monkeypatch.setattr(correction, "run_interleaved", run_interleaved)
    monkeypatch.setattr(correction.time, "perf_counter", lambda: next(clock))
    context = open_run(network(), None, Options(threads=1), ())
    assert correction._measured_share(context, network()) == share
