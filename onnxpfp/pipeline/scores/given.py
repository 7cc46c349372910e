"""The scores of one part of a network that come from a file, in place of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.calibrate.observer import Observer
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.errors import ScoresError
from onnxpfp.linear.ops import LinearOp
from onnxpfp.lossless import Lossless
from onnxpfp.pipeline.measurements import SquareObserver
from onnxpfp.pipeline.scores.lossless_record import lossless_of
from onnxpfp.pipeline.scores.part import ScoredPart
from onnxpfp.refit.gram import GramObserver
from onnxpfp.runtime.blocks import Alignment

__all__ = ["GivenScores"]

_SAME = "prune with the options that the network was scored with"


@dataclass(frozen=True, slots=True, eq=False)
class GivenScores:
    """What a file has of a part.

    Attributes:
        title: The file.
        part: What it has.
    """

    title: str
    part: ScoredPart

    def lossless(self, whole: Analysis, ops: Sequence[LinearOp], alignment: Alignment) -> Lossless:
        """Return the channels that cost nothing, as they were found when the network was scored.

        Args:
            whole: The part as it is given.
            ops: Its consumers.
            alignment: The multiples of channels that groups are filled up to by some that cost nothing.

        Raises:
            ScoresError: The file is of other channels, or of other multiples where that makes a difference.
        """
        groups = whole.graph.groups
        known = [(group.name, len(group.current)) for group in self.part.groups]
        if known != [(group.name, group.channels.size) for group in groups] or self.part.channels != whole.graph.count:
            raise ScoresError(f"{self.title} is of other groups of channels than the network has", hint=_SAME)
        try:
            lossless = lossless_of(dict(self.part.lossless), whole.graph, ops)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ScoresError(f"{self.title}: what costs nothing does not fit the network: {error}") from error
        steps = [alignment.of_group(group.channels.size) for group in groups]
        other = steps != [group.step for group in self.part.groups]
        # What suits the kernels here may be others than where it was scored, and a target of latency measures that.
        if alignment.asked and other and (lossless.removed or lossless.fillers):
            raise ScoresError(
                f"{self.title} was scored with channels that cost nothing kept in other multiples than are asked for",
                hint="score and prune with the same --round-to",
            )
        return lossless

    def taken(self, ops: Sequence[LinearOp], observers: Sequence[Observer]) -> Statistics:
        """Return the statistics of the consumers, and let observers have their sums, as if the samples had run.

        Raises:
            ScoresError: Something is not in the file, or has other shapes.
        """
        for op in ops:
            self._require(op)
        for observer in observers:
            try:
                if isinstance(observer, GramObserver):
                    observer.restore(self.part.grams)
                elif isinstance(observer, SquareObserver):
                    observer.restore(self.part.squares)
            except (KeyError, ValueError) as error:
                raise ScoresError(
                    f"{self.title} has no sums of what {error} reads that fit the network, and they are needed",
                    hint="leave --scores out, or prune with the options that the network was scored with",
                ) from error
        return {op.name: self.part.ops[op.name] for op in ops}

    def _require(self, op: LinearOp) -> None:
        """Make sure that a consumer has statistics that fit it."""
        known = self.part.ops.get(op.name)
        ids = op.channel_ids
        fits = known is not None and known.channels.shape == ids.shape and bool((known.channels == ids).all())
        indices = len(op.channels)
        shapes = [(indices, op.kernel_size), (indices, 1)]
        if known is None or not fits or known.square_sum.shape != (indices,) or known.patch_sum.shape not in shapes:
            raise ScoresError(f"{self.title} has no statistics of '{op.name}' that fit the network", hint=_SAME)
