"""What the report of a pruning says of a target of latency, and of how it was reached."""

from __future__ import annotations

from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.pipeline.latency.target import WITHIN, LatencyAim
from onnxpfp.report.comparison import ms

__all__ = ["asked_latency", "missed_latency", "reached_latency"]


def asked_latency(aim: LatencyAim) -> str:
    """Say what latency was asked for."""
    where = f" of {ms(aim.original_ms)} ms on {aim.device}"
    if aim.ms is not None:
        return f"at most {aim.ms:g} ms in a run, {100 * aim.share:.3g} % of the latency{where}"
    return f"keep {100 * aim.share:.4g} % of the latency{where}"


def reached_latency(aim: LatencyAim) -> str:
    """Say what the times of ops foresaw, and what was measured of it."""
    foreseen = f"the fitted times of the ops foresee {aim.foreseen:.3f} of the latency"
    error = f"the fit is off by at most {100 * aim.error:.2g} % where it was measured"
    if not aim.tries:
        return f"{foreseen} ({error}); the table is of another device, so nothing was corrected"
    *others, last = aim.tries
    earlier = "".join(f", {each.measured:.3f} when {each.share:.3f} was asked of it" for each in others)
    corrected = f" when {last.share:.3f} was asked of it{earlier}" if others else ""
    return f"{foreseen} ({error}); measured before the refit, {last.measured:.3f}{corrected}"


def missed_latency(latency: LatencyFindings | None, aim: LatencyAim | None) -> list[str]:
    """Say that a target of latency was missed by what was written, as measured last."""
    if latency is None or latency.ratio is None or aim is None or aim.given:
        return []
    if abs(latency.ratio.median / aim.share - 1) <= WITHIN:
        return []
    return [
        f"the written model was measured at {latency.ratio.median:.3f} of the latency, and {aim.share:.3g} was asked "
        f"for ({latency.ratio.low:.3f} to {latency.ratio.high:.3f} in half of the pairs of runs): measure it again on "
        "a machine that does nothing else (`onnxpfp verify`), or ask for a little more or less"
    ]
