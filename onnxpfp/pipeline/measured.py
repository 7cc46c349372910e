"""What was measured on a model before a choice is made: by the weights alone, on data, or with samples held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Samples
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.pipeline.refit_problem import RefitSetup
from onnxpfp.refit.gram import Gram
from onnxpfp.score.scores import Scores

__all__ = ["Calibration", "DataCalibration", "Measured", "RefitCalibration"]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the weights alone tell.

    Attributes:
        scores: One score per channel.
        seen: Samples that the sensitivities are measured on, or a little noise without data.
    """

    scores: Scores
    seen: Samples


@dataclass(frozen=True, slots=True, eq=False)
class DataCalibration(Calibration):
    """What the data tell.

    Attributes:
        wanted: Samples that the size formula asks for.
        statistics: Statistics of the linear ops.
    """

    wanted: int
    statistics: Statistics

    @property
    def samples(self) -> int:
        """How many samples the statistics are of; where nothing is measured, how many there are."""
        return max((each.samples for each in self.statistics.values()), default=len(self.seen))


@dataclass(frozen=True, slots=True, eq=False)
class RefitCalibration(DataCalibration):
    """What data tell that are enough to hold some out.

    Attributes:
        setup: What refits work on.
        grams: Gram matrices of the linear ops by output, where widths or channels are chosen by them.
    """

    setup: RefitSetup
    grams: Mapping[str, Gram]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A model, and what was measured on it.

    Attributes:
        analysis: The model.
        ops: Its consumers.
        calibration: Its scores.
        stored_axes: Where each consumer's weights are stored.
        curves: Its response curves, where they set the widths.
    """

    analysis: Analysis
    ops: tuple[LinearOp, ...]
    calibration: Calibration
    stored_axes: tuple[StoredAxis | None, ...]
    curves: tuple[ResponseCurve, ...] = ()
