"""What reports show of two models side by side: sizes, latency, and ops that do not get faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.slow_ops import SlowOp
from onnxpfp.counted import counted
from onnxpfp.model.activation_memory import ActivationPeak
from onnxpfp.report.charts import Bars, Series
from onnxpfp.report.page import Column, Table, number

__all__ = [
    "Sized",
    "drift_fact",
    "drift_measures",
    "latency_fact",
    "ms",
    "sizes_table",
    "slow_ops_chart",
    "slow_ops_table",
    "threads_text",
]


ALIKE = 0.01
"""Share by which two ratios may differ that nobody looks at twice."""


class Sized(Protocol):
    """The size of a model."""

    @property
    def params(self) -> int:
        """Stored numbers of all weights."""
        ...

    @property
    def macs(self) -> int | None:
        """Multiply-adds of one run; None where they are not known."""
        ...

    @property
    def bytes(self) -> int:
        """Size of the file."""
        ...

    @property
    def activations(self) -> ActivationPeak | None:
        """The peak of its activations in one run; None where it is not known."""
        ...


def sizes_table(before: Sized, after: Sized, latency: LatencyFindings | None) -> Table:
    """Show the sizes of two models, and the latency where it was measured."""
    counts = (
        ("parameters", before.params, after.params),
        ("MACs, one run", before.macs, after.macs),
        ("file, bytes", before.bytes, after.bytes),
        ("activations, bytes", *map(_peak, (before, after))),
    )
    rows = [(title, _count(old), _count(new), _kept(old, new)) for title, old, new in counts]
    if latency is not None and latency.original and latency.pruned and latency.ratio:
        medians = ms(latency.original.median_ms), ms(latency.pruned.median_ms)
        in_pairs = "" if _other_quotient(latency) is None else " in pairs"
        rows.append(("latency, ms", *medians, f"{100 * latency.ratio.median:.1f} %{in_pairs}"))
    return Table((Column(""), *map(number, ("before", "after", "kept"))), rows, tight=False, in_tiles=True)


def drift_measures(drift: Drift) -> list[str]:
    """Say how far the outputs are from the original's by each measure that there is."""
    measures: list[str] = []
    if drift.relative_error is not None:
        measures.append(f"relative output error {drift.relative_error:.3g}")
    if drift.differing is not None:
        measures.append(f"{100 * drift.differing:.1f} % of the integer outputs differ")
    if drift.top1_agreement is not None:
        measures.append(f"top-1 agreement {100 * drift.top1_agreement:.1f} %")
    return measures


def drift_fact(drift: Drift, *, noise: bool) -> str:
    """Say how far the outputs are from the original's.

    Args:
        drift: What was measured.
        noise: Whether the samples are made up.
    """
    parts = drift_measures(drift)
    if drift.lost + drift.gained:
        parts.append(f"{drift.lost + drift.gained:,} infinities or NaNs in one model alone")
    samples = [f"{'held-out ' * drift.held_out}{noun}{' of noise' * noise}" for noun in ("sample", "samples")]
    return f"{', '.join(parts)}, against the original on {counted(drift.samples, *samples)}"


def latency_fact(latency: LatencyFindings, over: str = "pruned over original") -> str:
    """Say how the latency was measured, and how far runs are apart; or why it was not measured.

    Args:
        latency: What was measured.
        over: What the ratio is of.
    """
    if latency.ratio is None or latency.pruned is None or latency.original is None:
        return f"not measured: {latency.unmeasured}"
    ratio, before, after = latency.ratio, latency.original, latency.pruned
    batch = f", {latency.samples} samples in each" if latency.samples > 1 else ""
    busy = ""
    if latency.on_cores:
        share = f"{100 * latency.waited:.0f} %"
        busy = f"; the machine was busy, runs waited {share} of their time: these are times on its cores"
    return (
        f"median of {counted(before.runs, 'run')} of each model in turns{batch}, {threads_text(latency.threads)}; "
        f"{over}, pair by pair, {ratio.median:.3f}, in half of the pairs {ratio.low:.3f} to {ratio.high:.3f} (before "
        f"{ms(before.low_ms)} to {ms(before.high_ms)} ms, after {ms(after.low_ms)} to {ms(after.high_ms)} ms)"
        f"{_puzzle(latency)}{busy}"
    )


def _other_quotient(latency: LatencyFindings) -> float | None:
    """Return the quotient of the medians; None where it says what the pairs say, or nothing was measured."""
    if latency.ratio is None or latency.pruned is None or latency.original is None:
        return None
    quotient = latency.pruned.median_ms / latency.original.median_ms
    return quotient if abs(quotient / latency.ratio.median - 1) > ALIKE else None


def _puzzle(latency: LatencyFindings) -> str:
    """Say why the ratio is not the quotient of the times that stand beside it; nothing where it is."""
    quotient = _other_quotient(latency)
    if quotient is None:
        return ""
    return (
        f"; the medians of before and after would make it {quotient:.3f}, but they move with all else that the machine "
        "does, which slows both runs of a pair"
    )


def slow_ops_table(ops: Sequence[SlowOp]) -> Table:
    """List ops, with their time and what was seen of the cause."""
    rows = [(op.name, op.op, ms(op.before_ms), ms(op.after_ms), op.cause or "none seen") for op in ops]
    columns = (Column("node"), Column("op"), *map(number, ("ms before", "ms after")), Column("cause"))
    return Table(columns, rows, of="ops")


def slow_ops_chart(ops: Sequence[SlowOp]) -> Bars:
    """Show the time of ops before and after."""
    return Bars(
        "Time of ops that do not take less",
        [op.name for op in ops],
        [
            Series("after", [op.after_ms for op in ops]),
            Series("before", [op.before_ms for op in ops], faint=True),
        ],
        axis="ms of one run",
        unit="number",
        of="op",
    )


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _peak(size: Sized) -> int | None:
    return None if size.activations is None else size.activations.bytes


def _kept(old: int | None, new: int | None) -> str:
    return f"{100 * new / old:.1f} %" if old and new is not None else "-"


def ms(value: float) -> str:
    """Write milliseconds with three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def threads_text(count: int | None) -> str:
    """Say how many threads onnxruntime had."""
    return "onnxruntime's choice of threads" if count is None else f"{count} thread{'s' * (count > 1)}"
