"""The result for people and programs, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.allocation.search import Trial
from onnxpfp.channels.types import Fixed
from onnxpfp.lossless import Removal
from onnxpfp.pipeline.verification import Size
from onnxpfp.refit.means import Record
from onnxpfp.report.json_form import plain
from onnxpfp.verify.drift import Drift
from onnxpfp.verify.equivalence import Equivalence

__all__ = ["GroupReport", "Report"]


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What was decided for one group.

    Attributes:
        name: The weight that brings its channels forth.
        channels: How many it had.
        kept: How many stay.
        sensitivity_sum: S, the sum of its channels' sensitivities.
        epsilon_deterministic: Bound on the relative error of each consumer, for each variant.
        epsilon_sampled: The same; infinite where it cannot be used.
        epsilon_mixed: The same.
        selection: The variant that was taken.
        assumption: What the bounds rest on.
        consumers: Names of the nodes that read it.
    """

    name: str
    channels: int
    kept: int
    sensitivity_sum: float
    epsilon_deterministic: float
    epsilon_sampled: float
    epsilon_mixed: float
    selection: str
    assumption: str
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known about one pruning.

    Attributes:
        before: Size of the original.
        after: Size of the pruned model.
        inputs: Input shapes of one run, at which shapes were found and MACs were counted.
        target: What was asked for: macs or params with the share that stays, max_drift or min_agreement with the bound.
        trials: Shares of the MACs that were tried for a target of quality, in their order.
        reachable: Share of the parameters that lie in at least one channel that may go.
        method: What ranked the channels: pfp, reconstruction, energy, a baseline, coreset (pfp without data) or plan.
        allocation: What set the widths: measured, bound or uniform.
        compensation: What was done about dropped channels: lstsq, bias or none.
        steps: How often scores and widths were measured.
        attention: What goes from an attention: heads or width.
        samples: Calibration samples that were used; 0 without data.
        samples_wanted: Samples that the size formula of S asks for; 0 without data.
        groups: Decisions by group.
        removed: Channels that went before, for they cost nothing.
        skipped: Axes of weights that stay, with the reason.
        oracle: The pruned model against the masked original.
        drift: The pruned model against the original; None without data.
        refits: What the refit of each linear op brought on held-out data, front to back.
        compensated: Consumers whose bias took up the mean of dropped channels.
        uncompensated: Consumers without that, with the reason.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, in the order in which they began; no second counts twice. load: model and data are
            read, and onnxruntime opens the model. shapes: of all tensors. channels: the label analysis. lossless:
            channels that cost nothing are found and taken out. calibration: the sensitivities are measured, and the
            Gram matrices of what the linear ops read where widths or channels are chosen by them. ranking: scores are
            made of all that. curves: the drift of the output is measured with every group narrowed
            alone. allocation: widths and channels are chosen. compensation: linear ops are refitted, or means folded
            into biases. rewrite: weights and numbers are cut. search: the trials of a target of quality are measured.
            verification: the checker, the oracle and the drift.
        versions: Of this program and its libraries.
        notes: What the user should know.
    """

    before: Size
    after: Size
    inputs: Mapping[str, tuple[int, ...]]
    target: Mapping[str, float]
    trials: tuple[Trial, ...]
    reachable: float
    method: str
    allocation: str
    compensation: str
    steps: int
    attention: str
    samples: int
    samples_wanted: int
    groups: tuple[GroupReport, ...]
    removed: tuple[Removal, ...]
    skipped: tuple[Fixed, ...]
    oracle: Equivalence
    drift: Drift | None
    refits: tuple[Record, ...]
    compensated: tuple[str, ...]
    uncompensated: tuple[tuple[str, str], ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report in types that JSON knows; what is infinite becomes null."""
        document: dict[str, Any] = plain(asdict(self))
        return document
