"""How reports show the latency of two models."""

from __future__ import annotations

from onnxpfp.verify.latency import LatencyFindings

__all__ = ["latency_cells", "latency_fact"]


def latency_cells(latency: LatencyFindings | None) -> tuple[str, str, str] | None:
    """Return before, after and what is kept, as a row of sizes has it; None where nothing was measured."""
    if latency is None or latency.original is None or latency.pruned is None or latency.ratio is None:
        return None
    before, after = (_ms(each.median_ms) for each in (latency.original, latency.pruned))
    return before, after, f"{100 * latency.ratio.median:.1f} %"


def latency_fact(latency: LatencyFindings) -> str:
    """Say how the latency was measured, and how far runs are apart; or why it was not measured."""
    if latency.ratio is None or latency.pruned is None or latency.original is None:
        return f"not measured: {latency.unmeasured}"
    ratio, before, after = latency.ratio, latency.original, latency.pruned
    count = latency.threads
    using = "onnxruntime's choice of threads" if count is None else f"{count} thread{'s' * (count > 1)}"
    return (
        f"median of {before.runs} runs of each model in turns, {using}; pruned over original, pair by pair, "
        f"{ratio.median:.3f}, in half of the pairs {ratio.low:.3f} to {ratio.high:.3f} (before "
        f"{_ms(before.low_ms)} to {_ms(before.high_ms)} ms, after {_ms(after.low_ms)} to {_ms(after.high_ms)} ms)"
    )


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
