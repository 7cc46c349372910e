"""What the report of a pruning says of a target of latency, and of how it was reached."""

from __future__ import annotations

from collections.abc import Iterator

from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.pipeline.latency.correction import WITHIN
from onnxpfp.pipeline.latency.target import LatencyTarget
from onnxpfp.report.comparison import ms

__all__ = ["asked_latency", "latency_notes", "reached_latency"]


def asked_latency(target: LatencyTarget) -> str:
    """Say what latency was asked for."""
    where = f"{ms(target.original_ms)} ms on {target.device or 'a device without a name'}"
    if target.ms is None:
        return f"keep {100 * target.share:.4g} % of the latency of {where}"
    if target.share == 1:
        return f"at most {target.ms:g} ms in a run, and the original takes {where}"
    return f"at most {target.ms:g} ms in a run, {100 * target.share:.3g} % of the latency of {where}"


def reached_latency(target: LatencyTarget) -> str:
    """Say what the times of ops foresaw, what was measured of it, and what ranks would have changed."""
    return _foreseen_and_measured(target) + _ranks(target)


def _ranks(target: LatencyTarget) -> str:
    """Say how far both files drift where one with ranks and one without were compared."""
    with_ranks, without = target.drift_with_ranks, target.drift_without
    if with_ranks is None or without is None:
        return ""
    taken, other, how = without, with_ranks, "with"
    if with_ranks <= without:
        taken, other, how = with_ranks, without, "without"
    return (
        f"; relative output error {taken:.3g}, and {other:.3g} {how} ranks at the same latency (of all samples that "
        "are not held out)"
    )


def _foreseen_and_measured(target: LatencyTarget) -> str:
    foreseen = f"the fitted times of the ops foresee {target.foreseen:.3f} of the latency"
    error = f"the fit is off by at most {100 * target.error:.2g} % where it was measured"
    if not target.tries:
        return f"{foreseen} ({error}); the table was given, so nothing was corrected: a run on its device must tell"
    *others, last = target.tries
    measured = f"{foreseen} ({error}); measured: {last.measured:.3f}"
    if not others:
        return measured
    earlier = "; ".join(f"{each.share:.3f} asked, {each.measured:.3f} measured" for each in others)
    return f"{measured}, where {last.share:.3f} was asked of the fit; other tries: {earlier}"


def latency_notes(
    latency: LatencyFindings | None, target: LatencyTarget | None, threads: int | None, step: int
) -> Iterator[str]:
    """Say where what was measured last is not what was asked for, or was measured in another way.

    Args:
        latency: The latency of what was written.
        target: The target of latency, and how it was reached; None where there was none.
        threads: Of onnxruntime here; None is its own choice.
        step: The multiple in which channels were kept.
    """
    if latency is None or latency.ratio is None or target is None:
        return
    if target.given:
        yield from _measured_otherwise(latency, target, threads)
    elif abs(latency.ratio.median / target.share - 1) > WITHIN:
        yield _missed(latency.ratio.median, latency.ratio.low, latency.ratio.high, target, step)


def _measured_otherwise(latency: LatencyFindings, target: LatencyTarget, threads: int | None) -> Iterator[str]:
    """Say that a table is of other runs than the latency that was measured here."""
    flags: list[str] = []
    if target.batch != latency.samples:
        flags.append(f"--latency-batch {target.batch}")
    if target.threads is not None and target.threads != threads:
        flags.append(f"--threads {target.threads}")
    if flags:
        yield f"the latency in this report was not measured as the latency table was, with {' '.join(flags)}"


def _missed(median: float, low: float, high: float, target: LatencyTarget, step: int) -> str:
    """Say that a target of latency was missed, and what to do."""
    missed = (
        f"the written model was measured at {median:.3f} of the latency, and {target.share:.3g} was asked for "
        f"({low:.3f} to {high:.3f} in half of the pairs of runs)"
    )
    if target.tries and abs(target.tries[-1].measured / target.share - 1) > WITHIN:
        finer = f": a --round-to below {step} leaves more widths to choose from" if step > 1 else ""
        return f"{missed}; of the prunings that were tried none came closer without being too slow{finer}"
    return (
        f"{missed}: measure it again on a machine that does nothing else (`onnxpfp verify`), or ask for a little more "
        "or less"
    )
