"""Calibrations, the measurements that a choice is made by: of weights alone, on data, or with tuning samples too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxpfp.allocation.by_drift import ResponseCurve
from onnxpfp.arrays import Floats
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.channels.branches import NO_BRANCHES, Branches
from onnxpfp.data.samples import Samples
from onnxpfp.linear.ops import LinearOp
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.pipeline.merging import MergeMaps
from onnxpfp.pipeline.ranked_layers import RankedTrial
from onnxpfp.pipeline.refit_problem import RefitSetup
from onnxpfp.refit.gram import Gram
from onnxpfp.score.scores import Scores

__all__ = ["Calibration", "DataCalibration", "Measured", "RefitCalibration"]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The scores; from the weights alone where there are no data.

    Attributes:
        scores: One score per channel.
        scored: Samples that the sensitivities are measured on, or a little noise without data.
    """

    scores: Scores
    scored: Samples


@dataclass(frozen=True, slots=True, eq=False)
class DataCalibration(Calibration):
    """The scores and statistics from data.

    Attributes:
        required: Samples that the size formula asks for.
        failure: Bound by the same formula on the probability that those given are not enough for what the bounds
            assume (`onnxpfp.score.pfp.sample_failure`); None where nothing is scored, or several come from one input.
        statistics: Statistics of the linear ops.
        mean_squares: Mean square of every output (g, O/g) of the consumers, by position: what errors of a choice are a
            share of (`onnxpfp.pipeline.choice_bounds`). Of none where they have no bound.
        merge_maps: What merging needs to know of every group; empty where nothing is merged.
    """

    required: int
    failure: float | None
    statistics: Statistics
    mean_squares: Mapping[int, Floats]
    merge_maps: tuple[MergeMaps, ...] = field(default=(), kw_only=True)

    @property
    def samples(self) -> int:
        """How many samples the statistics are of; where nothing is measured, how many there are."""
        return max((each.samples for each in self.statistics.values()), default=len(self.scored))


@dataclass(frozen=True, slots=True, eq=False)
class RefitCalibration(DataCalibration):
    """The scores, statistics and refit problem from data that are enough to split (`onnxpfp.data.splits`).

    Attributes:
        setup: What refits work on.
        grams: Gram matrices of the linear ops by output, where widths or channels are chosen by them.
            Empty once they are chosen.
    """

    setup: RefitSetup
    grams: Mapping[str, Gram]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A model with its calibration.

    Attributes:
        analysis: The model.
        ops: Its consumers.
        calibration: Its scores.
        stored_axes: Where each consumer's weights are stored.
        curves: Its response curves, where they set the widths: of the groups, then of the ranked layers.
        ranked: Layers whose ranks are chosen beside the channels.
        branches: The groups that may go entirely.
        asked: How many channels the user asks of groups, by position; the allocation chooses the other widths.
    """

    analysis: Analysis
    ops: tuple[LinearOp, ...]
    calibration: Calibration
    stored_axes: tuple[StoredAxis | None, ...]
    curves: tuple[ResponseCurve, ...] = ()
    ranked: tuple[RankedTrial, ...] = ()
    branches: Branches = NO_BRANCHES
    asked: Mapping[int, float] = field(default_factory=dict[int, float])
