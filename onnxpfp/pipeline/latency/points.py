"""Measure the latencies of a network and its ops at several widths, on this machine.

Every point is the network itself with some channels less: it is cut, optimized by onnxruntime and run as a user would
run it, so kernels, layouts and fusions are those that count. Which channels go does not matter for that. Its latency is
measured in turns with the whole network's, that of its ops with onnxruntime's profile.

Widths are drawn at random, so that every op is met at several widths of what it reads and of what it writes. The first
points are in multiples of 1, 4, 8, 16 and 32 channels; they show in what steps the kernels of this device may work
(`kernel_steps.py`). The others are in these multiples in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
from onnx import ModelProto

from onnxpfp.arrays import Floats, Ints
from onnxpfp.channels import Analysis
from onnxpfp.comparison.slow_ops import OpTimes
from onnxpfp.data.samples import Feed
from onnxpfp.errors import LatencyTableError
from onnxpfp.model.draws import without_record
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.latency.interleaved import latency_feed, run_interleaved
from onnxpfp.pipeline.latency.kernel_steps import in_question, slower_in_multiples
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths
from onnxpfp.pipeline.latency.table import PartTable, group_names, numbers_of, point_of
from onnxpfp.progress import Count
from onnxpfp.rewrite import apply, restore
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.blocks import Alignment
from onnxpfp.runtime.external_data import is_reference
from onnxpfp.runtime.latency import LatencyComparison, RunTime
from onnxpfp.runtime.profile import open_profiled
from onnxpfp.runtime.session import Session, open_session

__all__ = [
    "MULTIPLES",
    "POINTS",
    "TRIALS",
    "TimedNetwork",
    "cut_to",
    "draw_shares",
    "measure_part",
    "rounded",
    "steps_of",
]

MULTIPLES = (1, 4, 8, 16, 32)
"""Steps of widths that are compared."""
TRIALS = 3
"""Points in each of them: the same shares of groups, rounded in another way, so that only that makes a difference."""
POINTS = 7
"""Points in the steps that widths may be in; three factors of an op are fitted to them."""
NARROWEST = 0.1
"""Smallest share of a group that is drawn."""
SECONDS = 1.0
"""Of runs at one point; about half of it is used."""
RUNS = 5
"""Runs of the whole network and of the other one that SECONDS must have room for, where they are long."""
PROFILED, MOST_PROFILED, PROFILED_MS = 5, 40, 40.0
"""Runs with the profile, at least and at most, and milliseconds of them: it counts whole microseconds, and the least of
a few is that of a run that nothing disturbed."""


def measure_part(context: RunContext, progress: Count, *, prunable: bool) -> PartTable:
    """Measure a part of a network.

    Args:
        context: The part.
        progress: Told how many points are done, of how many.
        prunable: Whether anything of it may go; if not, only the whole is measured.

    Raises:
        CalibrationError: There are too few samples for a run.
        LatencyTableError: A run is too short or too long to be measured, or weights lie in other files.
    """
    trial = TimedNetwork.of(context)
    analysis, alignment = context.whole, context.alignment
    sizes, rng = full_widths(analysis), np.random.default_rng(context.options.seed)
    points = [(0, trial.measure_whole(sizes))]
    multiples = () if alignment.asked else MULTIPLES
    count = 1 + len(multiples) * TRIALS + POINTS

    def measure(shares: Floats, multiple: int) -> None:
        progress(len(points), count)
        steps = steps_of(alignment, sizes) if alignment.asked else np.full_like(sizes, multiple)
        points.append((multiple, trial.measure(rounded(shares * sizes, sizes, steps))))

    if prunable:
        for shares in draw_shares(rng, sizes, TRIALS if multiples else 0):
            for multiple in multiples:
                measure(shares, multiple)
        turns: tuple[int, ...] = (alignment.step,)
        if multiples:
            tried, drawn = zip(*points, strict=True)
            turns = in_question(slower_in_multiples(analysis, drawn, tried))
        for shares, multiple in zip(draw_shares(rng, sizes, POINTS), cycle(turns), strict=False):
            measure(shares, multiple)
    groups = dict(zip(group_names(analysis.graph), sizes.tolist(), strict=True))
    return PartTable(groups, tuple(point_of(analysis.graph, *point) for point in points))


def draw_shares(rng: np.random.Generator, sizes: Ints, count: int) -> Floats:
    """Draw shares of all groups, (count, groups)."""
    return rng.uniform(NARROWEST, 1.0, (count, sizes.size))


def rounded(widths: Floats, sizes: Ints, steps: Ints) -> Ints:
    """Round widths to multiples of steps, (groups,); groups that are not wider than one stay whole."""
    return np.minimum(np.maximum(np.round(widths / steps).astype(np.int64), 1) * steps, sizes)


def steps_of(alignment: Alignment, sizes: Ints) -> Ints:
    """Return the steps of groups with so many channels, (groups,)."""
    return np.array([alignment.of_group(size) for size in numbers_of(sizes)], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class TimedNetwork:
    """A network beside which what becomes of it is run.

    Attributes:
        context: The network, and how it is run.
        feed: Inputs of a run.
        whole: It with all channels, ready to run.
        ms: Milliseconds of a run of that.
    """

    context: RunContext
    feed: Feed
    whole: Session
    ms: float

    @classmethod
    def of(cls, context: RunContext, ms: float | None = None) -> TimedNetwork:
        """Make the whole network ready to run.

        Args:
            context: The network, and how it is run.
            ms: Milliseconds of a run of it, where they are known; None measures them.

        Raises:
            CalibrationError: There are too few samples for a run.
            LatencyTableError: A run is too short or too long to be measured, or weights lie in other files.
        """
        if any(is_reference(tensor) for tensor in context.whole.model.graph.initializer):
            # They would be fed at every run, and onnxruntime would not optimize as it does for a user.
            raise LatencyTableError(
                "the latencies of ops cannot be measured where weights lie in other files",
                hint="prune by --keep-macs and measure the result with `onnxpfp verify`, or fill a table in: "
                "`onnxpfp latency IN -o FILE.json --models DIR`",
            )
        whole = _open(context, cut_to(context.whole, full_widths(context.whole)))
        trial = cls(context, latency_feed(context), whole, ms or 0.0)
        if ms is not None:
            return trial
        first = trial.whole.timed(trial.feed)
        return replace(trial, ms=trial.turns(trial.whole, first).original.median_ms)

    def turns(self, other: Session, run: RunTime) -> LatencyComparison:
        """Run the whole network and another one in turns."""
        seconds = max(SECONDS, 2 * (RUNS + 2) * run.wall)
        return run_interleaved(self.context, self.whole, other, self.feed, seconds)

    def measure(self, kept: Ints) -> MeasuredWidths:
        """Measure the network and its ops at one choice of widths."""
        return self.measure_model(kept, cut_to(self.context.whole, kept))

    def measure_model(self, kept: Ints, model: ModelProto) -> MeasuredWidths:
        """Measure what has become of the network at such widths, and its ops."""
        session, ops = self._profiled(model)
        ratio = self.turns(session, RunTime(self.ms / 1000, 0.0)).ratio.median
        return MeasuredWidths(kept, ratio * self.ms, ops)

    def measure_whole(self, sizes: Ints) -> MeasuredWidths:
        """Measure the ops of the network with all channels, whose latency is known."""
        return MeasuredWidths(sizes, self.ms, self._profiled(cut_to(self.context.whole, sizes))[1])

    def _profiled(self, model: ModelProto) -> tuple[Session, dict[str, float]]:
        """Open what has become of the network, and return what its ops take, by name, too.

        A session takes longer to open than to run a few times, so the one that was profiled is also timed.
        """
        context = self.context
        runs = max(PROFILED, min(MOST_PROFILED, round(PROFILED_MS / max(self.ms, 1e-3))))
        session, kernels = open_profiled(model, self.feed, context.requests, context.options.threads, runs)
        return session, dict(OpTimes.of(model, kernels).ms)


def _open(context: RunContext, model: ModelProto) -> Session:
    return open_session(model, context.requests, threads=context.options.threads, resting=True)


def cut_to(analysis: Analysis, kept: Ints, change: Callable[[ModelProto], ModelProto] | None = None) -> ModelProto:
    """Return a network whose groups have only so many channels, the first ones.

    Args:
        analysis: The network.
        kept: Channels of every group, (groups,).
        change: Makes something else of what is cut, before it is as the file has it.
    """
    graph = analysis.graph
    keep = graph.keep_all()
    for group, width in zip(graph.groups, numbers_of(kept), strict=True):
        keep[group.channels[width:]] = False
    cut = apply(analysis.model, graph, keep, Edits(), analysis.source.scratch)
    return without_record(restore(cut if change is None else change(cut), analysis, keep))
