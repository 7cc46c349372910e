"""The latency of a pruned model beside the original's, and a word where it is not what the multiply-adds promise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from onnxpfp.comparison.slow_ops import OpTimes, SlowOp, block_of, slow_ops
from onnxpfp.counted import counted
from onnxpfp.runtime.latency import (
    BUSY,
    Latency,
    LatencyComparison,
    LatencyRatio,
    LatencyUnknownError,
    compare_latency,
    counts_cores,
)
from onnxpfp.runtime.profile import RUNS, profile_kernels
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import SessionSource, open_session

__all__ = [
    "LatencyFindings",
    "LatencyTrial",
    "expected_ratio",
    "is_slow",
    "measure_latency",
    "measure_pair",
    "seconds_for_latency",
]

LEAST_SECONDS = 3.0
SHARE = 0.05
"""Of what a run took so far, that measuring the latency may take, if that is more."""
Models = tuple[ModelProto, ModelProto]
Sources = tuple[SessionSource, SessionSource]
NAMED = 3
"""Most ops that the note names."""
MUCH = 0.5
"""Share of a run that passes outside of all ops from which the note says so."""


@dataclass(frozen=True, slots=True, eq=False)
class LatencyTrial:
    """Two models and how they are run.

    Attributes:
        original: The original, as its user runs it.
        pruned: The pruned model, as it is written.
        sources: What onnxruntime loads of both: themselves, or files where their weights lie in files.
        feed: Inputs of one run.
        requests: Where to run.
        threads: Of onnxruntime.
        kept_macs: Share of the multiply-adds that is left.
        samples: Samples in that run.
        every_op: Whether ops that take more time are looked for where the whole is fast enough, too.
    """

    original: ModelProto
    pruned: ModelProto
    sources: Sources
    feed: Mapping[str, NDArray[Any]]
    requests: Sequence[ProviderRequest]
    threads: int | None
    kept_macs: float
    samples: int = 1
    every_op: bool = False


@dataclass(frozen=True, slots=True)
class LatencyFindings:
    """The latency of two models, or why it was not measured.

    Attributes:
        original: The original; None where nothing was measured.
        pruned: The pruned model; likewise.
        ratio: Pruned over original; likewise.
        waited: Share of a run that it waited for cores, because the machine did something else; 0 where not known.
        on_cores: Whether that is so much that times are those on the cores, and no wall time.
        threads: Threads of onnxruntime that were asked for; None is its own choice.
        samples: Samples in a run.
        unmeasured: Why nothing was measured; else empty.
        slow_ops: Ops whose time did not fall, where the whole is slower than its multiply-adds promise; else those that
            take more, where they were looked for.
        note: What to know about that, in one line; empty where it is fast enough.
    """

    original: Latency | None = None
    pruned: Latency | None = None
    ratio: LatencyRatio | None = None
    waited: float = 0.0
    on_cores: bool = False
    threads: int | None = None
    samples: int = 1
    unmeasured: str = ""
    slow_ops: tuple[SlowOp, ...] = ()
    note: str = ""


def seconds_for_latency(so_far: float) -> float:
    """Return what the measurement may take where a run took so long until now."""
    return max(LEAST_SECONDS, SHARE * so_far)


def expected_ratio(kept_macs: float) -> float:
    """Return the ratio of the latencies that is reached if half of what the multiply-adds promise comes true."""
    return 1 - (1 - kept_macs) / 2


def is_slow(ratio: LatencyRatio, kept_macs: float) -> bool:
    """Tell whether three of four pairs of runs do not even reach half of what the multiply-adds promise."""
    return ratio.low > expected_ratio(kept_macs)


def measure_latency(trial: LatencyTrial, seconds: float) -> LatencyFindings:
    """Measure it, and look for the reason where the pruned model is slower than its multiply-adds promise.

    Args:
        trial: The models.
        seconds: What all of it may take: loading, runs, and the profiles, which are left out where they do not fit.

    Raises:
        ModelError: A model does not run.
    """
    start = time.perf_counter()
    try:
        measured, loading = _compared(trial.sources, trial.feed, trial.requests, trial.threads, seconds)
    except LatencyUnknownError as reason:
        return LatencyFindings(unmeasured=str(reason))
    findings = replace(_findings(measured, trial.threads), samples=trial.samples)
    slow = is_slow(measured.ratio, trial.kept_macs)
    if not slow and not trial.every_op:
        return findings
    profiler = _Profiler(trial, start + seconds, loading, measured.pair)
    ops, parts = _explained(profiler, measured, expected_ratio(trial.kept_macs) if slow else 1.0)
    return replace(findings, slow_ops=ops, note=". ".join([_slow(measured, trial.kept_macs), *parts]) if slow else "")


def measure_pair(
    sources: Sources,
    feed: Mapping[str, NDArray[Any]],
    requests: Sequence[ProviderRequest],
    threads: int | None,
    seconds: float,
) -> LatencyFindings:
    """Measure two models of which none is said to be faster: no reasons are looked for.

    Args:
        sources: What onnxruntime loads of both.
        feed: Inputs of one run.
        requests: Where to run.
        threads: Of onnxruntime.
        seconds: What all of it may take: loading, and runs.

    Raises:
        ModelError: A model does not run.
    """
    try:
        measured, _ = _compared(sources, feed, requests, threads, seconds)
    except LatencyUnknownError as reason:
        return LatencyFindings(unmeasured=str(reason))
    return _findings(measured, threads)


def _compared(
    sources: Sources,
    feed: Mapping[str, NDArray[Any]],
    requests: Sequence[ProviderRequest],
    threads: int | None,
    seconds: float,
) -> tuple[LatencyComparison, float]:
    """Load both models and run them in turns; returns how many seconds they took to load, too.

    Raises:
        LatencyUnknownError: There is not enough time.
        ModelError: A model does not run.
    """
    start = time.perf_counter()
    original, pruned = (open_session(source, requests, threads=threads, resting=True) for source in sources)
    loading = time.perf_counter() - start
    if loading >= seconds:
        raise LatencyUnknownError(f"it may take {seconds:.3g} s, and loading both models took {loading:.3g} s")
    cores = counts_cores((*original.providers, *pruned.providers))
    return compare_latency(original, pruned, feed, seconds - loading, threads=threads, cores=cores), loading


def _findings(measured: LatencyComparison, threads: int | None) -> LatencyFindings:
    """Say what was measured."""
    return LatencyFindings(
        measured.original, measured.pruned, measured.ratio, measured.waited, measured.waited > BUSY, threads
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Profiler:
    """Profiles two models as long as there is time.

    Attributes:
        trial: The models, and how they are run.
        end: When the time is over, by `time.perf_counter`.
        loading: Seconds that it takes to load two models.
        pair: Seconds of a run of both.
    """

    trial: LatencyTrial
    end: float
    loading: float
    pair: float

    def times(self, models: Models, sources: Sources) -> tuple[OpTimes, OpTimes] | None:
        """Run two models in turns; None where there is no time for a run of each beside one to warm up."""
        trial = self.trial
        runs = min(RUNS, int((self.end - time.perf_counter() - self.loading) / self.pair) - 1)
        if runs < 1:
            return None
        one, two = profile_kernels(sources, trial.feed, trial.requests, trial.threads, runs)
        return OpTimes.of(models[0], one), OpTimes.of(models[1], two)


def _explained(
    profiler: _Profiler, measured: LatencyComparison, promise: float
) -> tuple[tuple[SlowOp, ...], list[str]]:
    """Profile both models; returns the ops that take more than a share of their time, and what to say of them."""
    trial = profiler.trial
    times = profiler.times((trial.original, trial.pruned), trial.sources)
    if times is None:
        return (), ["There was no time to look at single ops"]
    original, pruned = times
    slow = slow_ops(original, pruned, promise, lambda one, two: profiler.times((one, two), (one, two)))
    return slow, [*_outside(measured, pruned), *_named(slow), *_advice(slow, block_of(original, pruned))]


def _slow(measured: LatencyComparison, kept_macs: float) -> str:
    ratio = measured.ratio
    return (
        f"the pruned model takes {ratio.median:.2f} of the original's time at {kept_macs:.2f} of its multiply-adds "
        f"({ratio.low:.2f} to {ratio.high:.2f} in half of {counted(measured.pruned.runs, 'pair')} of runs), not even "
        "half of what these promise"
    )


def _outside(measured: LatencyComparison, pruned: OpTimes) -> list[str]:
    """Say how much of a run passes outside of the ops, where that is most of it."""
    whole, inside = measured.pruned.median_ms, sum(pruned.ms.values())
    if pruned.accelerated or inside >= (1 - MUCH) * whole:
        return []
    return [f"Of {whole:.3g} ms only {inside:.3g} are spent in ops, and pruning shortens nothing else"]


def _named(slow: Sequence[SlowOp]) -> list[str]:
    """Name the ops that cost most."""
    if not slow:
        return []
    texts = [
        f"{_title(each)} {each.before_ms:.3g} -> {each.after_ms:.3g} ms ({each.cause or 'no cause seen'})"
        for each in slow[:NAMED]
    ]
    left = len(slow) - NAMED
    more = f" and {left} more op{'s' * (left > 1)}" if left > 0 else ""
    return [f"These do not take less: {', '.join(texts)}{more}"]


def _title(op: SlowOp) -> str:
    return op.op if op.name == op.op else f"{op.op} '{op.name}'"


def _advice(slow: Sequence[SlowOp], block: int) -> list[str]:
    """Say what helps against the causes that were seen."""
    advice: list[str] = []
    if block > 1 and any(word in each.cause for each in slow for word in ("layout", "channels for its")):
        advice.append(f"--round-to {block} keeps channels in the blocks of these kernels")
    if any("the CPU" in each.cause for each in slow):
        advice.append("--strict-providers makes it an error that an op falls back to the CPU")
    if any(not each.cause for each in slow):
        advice.append("--exclude leaves the weights whole of ops that gain nothing")
    return [f"What helps: {', '.join(advice)}"] if advice else []
