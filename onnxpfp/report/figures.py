"""The figures that a page about two models begins with."""

from __future__ import annotations

from collections.abc import Iterator

from onnxpfp.comparison.drift import Drift
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.comparison.promises import Promises
from onnxpfp.counted import counted
from onnxpfp.report.charts import Tile, Tiles
from onnxpfp.report.comparison import Sized, ms
from onnxpfp.report.page import at_most, down_to

__all__ = ["before_and_after", "drift_tiles", "left_of"]


def before_and_after(
    before: Sized, after: Sized, latency: LatencyFindings | None, drift: Drift | None, promises: Promises | None = None
) -> Tiles:
    """Show what is left of a model, and how far its outputs are from the original's.

    Args:
        before: Size of the original.
        after: Size of the other.
        latency: Time of a run of both; None where it was not asked for.
        drift: Distance of the outputs; None where it is not known.
        promises: What held-out samples promise; None where there are none.
    """
    peaks = [None if size.activations is None else size.activations.bytes for size in (before, after)]
    tiles = [
        left_of("Parameters", before.params, after.params),
        left_of("Multiply-adds, one run", before.macs, after.macs),
        left_of("File, bytes", before.bytes, after.bytes),
        *_latency(latency),
        left_of("Peak of activations, bytes", *peaks),
        *drift_tiles(drift, promises),
    ]
    return Tiles([tile for tile in tiles if tile is not None])


def left_of(title: str, before: int | None, after: int | None) -> Tile | None:
    """Show what is left of a count; nothing where it is not known."""
    if before is None or after is None:
        return None
    share = after / before if before else None
    value = f"{after:,}" if share is None else f"{100 * share:.1f} %"
    return Tile(title, value, f"{before:,} → {after:,}", share)


def _latency(latency: LatencyFindings | None) -> Iterator[Tile]:
    if latency is None or latency.original is None or latency.pruned is None or latency.ratio is None:
        return
    ratio = latency.ratio
    times = f"{ms(latency.original.median_ms)} → {ms(latency.pruned.median_ms)}"
    half = f"median of pairs of runs, half of which are {100 * ratio.low:.1f} to {100 * ratio.high:.1f} %"
    yield Tile("Latency, ms", f"{100 * ratio.median:.1f} %", f"{times}; {half}", ratio.median)


def drift_tiles(drift: Drift | None, promises: Promises | None = None) -> Iterator[Tile]:
    """Show how far outputs are from the original's; arguments as for `before_and_after`."""
    if drift is None:
        return
    samples = counted(drift.samples, f"{'held-out ' * drift.held_out}sample")
    confidence = "" if promises is None else f"with {100 * promises.confidence:.4g} % confidence"
    if drift.relative_error is not None:
        said = f"relative output error on {samples}"
        if promises is not None and promises.drift:
            limit = next((each for each in promises.drift if each.share == 0.9), promises.drift[-1])
            said += f"; in {down_to(100 * limit.share, 1)} % of inputs at most {at_most(limit.at_most, 3)} {confidence}"
        yield Tile("Drift", f"{drift.relative_error:.3g}", said)
    if drift.differing is not None:
        yield Tile("Whole numbers that differ", f"{100 * drift.differing:.1f} %", f"on {samples}")
    if drift.top1_agreement is not None:
        said = f"same top-1 class on {samples}"
        if promises is not None and promises.agreement is not None:
            said += f"; of inputs at least {down_to(100 * promises.agreement.at_least, 1)} % {confidence}"
        yield Tile("Agreement", f"{100 * drift.top1_agreement:.1f} %", said)
