"""What the report of a pruning says of a target of latency, and of how it was reached."""

from __future__ import annotations

from collections.abc import Iterator

from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.pipeline.latency.target import WITHIN, LatencyAim
from onnxpfp.report.comparison import ms

__all__ = ["asked_latency", "latency_notes", "reached_latency"]


def asked_latency(aim: LatencyAim) -> str:
    """Say what latency was asked for."""
    where = f"{ms(aim.original_ms)} ms on {aim.device or 'a device without a name'}"
    if aim.ms is None:
        return f"keep {100 * aim.share:.4g} % of the latency of {where}"
    if aim.share == 1:
        return f"at most {aim.ms:g} ms in a run, and the original takes {where}"
    return f"at most {aim.ms:g} ms in a run, {100 * aim.share:.3g} % of the latency of {where}"


def reached_latency(aim: LatencyAim, *, refitted: bool) -> str:
    """Say what the times of ops foresaw, and what was measured of it.

    Args:
        aim: How it was aimed at.
        refitted: Whether layers were refitted after that.
    """
    foreseen = f"the fitted times of the ops foresee {aim.foreseen:.3f} of the latency"
    error = f"the fit is off by at most {100 * aim.error:.2g} % where it was measured"
    if not aim.tries:
        return f"{foreseen} ({error}); the table was given, so nothing was corrected: a run on its device must tell"
    *others, last = aim.tries
    measured = f"{foreseen} ({error}); measured{' before the refit' if refitted else ''}: {last.measured:.3f}"
    if not others:
        return measured
    earlier = "; ".join(f"{each.share:.3f} asked, {each.measured:.3f} measured" for each in others)
    return f"{measured}, where {last.share:.3f} was asked of the fit; other tries: {earlier}"


def latency_notes(
    latency: LatencyFindings | None, aim: LatencyAim | None, threads: int | None, step: int
) -> Iterator[str]:
    """Say where what was measured last is not what was asked for, or was measured in another way.

    Args:
        latency: The latency of what was written.
        aim: How a target of latency was aimed at.
        threads: Of onnxruntime here; None is its own choice.
        step: The multiple in which channels were kept.
    """
    if latency is None or latency.ratio is None or aim is None:
        return
    if aim.given:
        yield from _measured_otherwise(latency, aim, threads)
    elif abs(latency.ratio.median / aim.share - 1) > WITHIN:
        yield _missed(latency.ratio.median, latency.ratio.low, latency.ratio.high, aim, step)


def _measured_otherwise(latency: LatencyFindings, aim: LatencyAim, threads: int | None) -> Iterator[str]:
    """Say that a table is of other runs than the latency that was measured here."""
    flags: list[str] = []
    if aim.batch != latency.samples:
        flags.append(f"--latency-batch {aim.batch}")
    if aim.threads is not None and aim.threads != threads:
        flags.append(f"--threads {aim.threads}")
    if flags:
        yield f"the latency in this report was not measured as the latency table was, with {' '.join(flags)}"


def _missed(median: float, low: float, high: float, aim: LatencyAim, step: int) -> str:
    """Say that a target of latency was missed, and what to do."""
    missed = (
        f"the written model was measured at {median:.3f} of the latency, and {aim.share:.3g} was asked for "
        f"({low:.3f} to {high:.3f} in half of the pairs of runs)"
    )
    if aim.tries and abs(aim.tries[-1].measured / aim.share - 1) > WITHIN:
        finer = f": a --round-to below {step} leaves more widths to choose from" if step > 1 else ""
        return f"{missed}; of the prunings that were tried none came closer without being too slow{finer}"
    return (
        f"{missed}: measure it again on a machine that does nothing else (`onnxpfp verify`), or ask for a little more "
        "or less"
    )
