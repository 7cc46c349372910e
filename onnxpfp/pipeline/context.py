"""The context of a run: what all its stages share, as one argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnx import ModelProto

from onnxpfp.calibrate.batch_size import samples_at_once
from onnxpfp.channels import Analysis
from onnxpfp.comparison.evaluator import Evaluator
from onnxpfp.comparison.picks import Picks
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import SampleSource
from onnxpfp.data.splits import CalibrationData
from onnxpfp.lossless.subnormal import SubnormalWeights
from onnxpfp.model.load import ModelSource, load
from onnxpfp.options import Options, WidthRule
from onnxpfp.pipeline.alignment import alignment_for
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.class_plan import plan_of_rest
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.kept_classes import KeptClasses, keep_classes
from onnxpfp.pipeline.latency.kernel_steps import StepCandidate
from onnxpfp.pipeline.latency.op_latencies import OpLatencies
from onnxpfp.pipeline.latency.pair_latencies import PairLatencies
from onnxpfp.pipeline.plan import Plan
from onnxpfp.pipeline.provenance import Provenance
from onnxpfp.pipeline.reading import read_data
from onnxpfp.pipeline.requirements import require_split
from onnxpfp.progress import Clock, Progress
from onnxpfp.runtime.blocks import ANY_WIDTH, Alignment
from onnxpfp.runtime.providers import ProviderRequest

if TYPE_CHECKING:
    # What looks at a network alone loads no refits.
    from onnxpfp.pipeline.scores.given import GivenScores

__all__ = ["GroupShare", "RunContext", "open_run"]


@dataclass(frozen=True, slots=True)
class GroupShare:
    """The share of a group that the user sets.

    Attributes:
        pattern: What names the group.
        share: The share of its channels that stays.
    """

    pattern: str
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class RunContext:
    """Everything that stays the same at every step.

    Attributes:
        whole: The network as it was given.
        data: The samples.
        requests: Where to run.
        providers: Where onnxruntime really runs.
        options: How to prune.
        plan: What stays, in place of scores.
        full: The cost that the target is a share of: the MACs or parameters of the whole network, the bits of its
            weights, or its latency.
        clock: Adds up seconds, and says how far it is.
        subnormal: The subnormal weights of the network as it was given, and how many of them are zero in `whole`.
        latencies: The latencies of its ops, where the target is one and they have been measured.
        pairs: Those of what can stand in the place of layers, where ranks may be chosen, too.
        alignment: The multiples in which the channels of groups are kept.
        candidates: Others of which a target of latency may take one, fine ones first; empty where none are in question.
        met: Whether the network is what the target asks for as it is, so that all of it stays.
        scores: What a file has of this part in place of a calibration; None where it is measured.
        provenance: What the file that is written says of itself.
        classes: The classes that stay, where others went: `whole` is what is left then. None where all stay.
        shares: The shares of groups of `whole` that the user sets, by position.
    """

    whole: Analysis
    data: CalibrationData
    requests: Sequence[ProviderRequest]
    providers: tuple[str, ...]
    options: Options
    plan: Plan | None
    full: int
    clock: Clock
    subnormal: SubnormalWeights = field(default_factory=SubnormalWeights)
    latencies: OpLatencies = field(default_factory=OpLatencies.unmeasured)
    pairs: PairLatencies = field(default_factory=PairLatencies)
    alignment: Alignment = ANY_WIDTH
    candidates: tuple[StepCandidate, ...] = ()
    met: bool = False
    scores: GivenScores | None = None
    provenance: Provenance = field(default_factory=Provenance)
    classes: KeptClasses | None = None
    shares: Mapping[int, GroupShare] = field(default_factory=dict[int, GroupShare])

    @property
    def chooses(self) -> bool:
        """Whether channels are to be chosen: no plan says what stays, and not everything does."""
        asked = self.options.target[1] < 1 or bool(self.options.share)
        return self.plan is None and asked and not self.met

    @property
    def batch_limit(self) -> int | None:
        """Most samples in one run, where the user or the model set a limit; None leaves it to the tensors' sizes."""
        data = self.data
        limited = data.samples.fixed_batch is None and (self.options.batch_size or data.batch_size == 1)
        return data.batch_size if limited else None

    @property
    def compensation(self) -> Literal["lstsq", "bias", "merge", "none"]:
        """What is done about the dropped channels."""
        if self.data.given == "none":
            return self._without_data
        if self.options.compensate == "auto":
            return "lstsq" if self.data.telling or self._ranks else "bias"
        return self.options.compensate

    @property
    def _without_data(self) -> Literal["lstsq", "bias", "none"]:
        """The same without data: nothing, unless a file has what it takes."""
        asked = self.options.compensate
        if self.scores is None or asked in {"merge", "none"}:
            return "none"
        return "lstsq" if asked == "lstsq" or (asked == "auto" and self.scores.part.grams) else "bias"

    @property
    def layerwise(self) -> bool:
        """Whether layers are fitted one by one to their own outputs in the original, as no data tell of more."""
        return self.data.given == "none" and self.compensation == "lstsq"

    @property
    def allocation(self) -> WidthRule:
        """What sets the widths; noise tells nothing about the output."""
        if self.options.sets_widths:
            return "criterion"
        return self.options.allocate or ("measured" if self.data.telling or self._ranks else "bound")

    @property
    def _ranks(self) -> bool:
        """Whether ranks are chosen, which takes the drift of the output and refits."""
        return self.options.ranked and self.plan is None

    @property
    def may_drop_branches(self) -> bool:
        """Whether groups may go entirely: what that does is known where it is measured."""
        options = self.options
        return self.chooses and options.drops_blocks and self.allocation == "measured" and options.min_channels == 1

    def analyze(self, model: ModelProto) -> Analysis:
        """Find the shapes, constants and channels of what has become of the network."""
        return analyze(self.whole.source.rewritten(model), self.data, self.options, self.clock)

    def evaluator(self, samples: Samples, *, held_out: bool = True) -> Evaluator:
        """Return what compares models with the whole network on samples."""
        options, original = self.options, self.whole.source.model
        return Evaluator(
            original,
            samples,
            held_out,
            min(self.data.batch_size, options.batch_size or samples_at_once(self.whole)),
            self.requests,
            options.threads,
            options.workspace,
            Picks.of(self.whole),
        )


def open_run(
    model: ModelSource,
    calibration: SampleSource | None,
    options: Options,
    holding_out: Sequence[str],
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    certification: SampleSource | None = None,
    decides: bool = True,
) -> RunContext:
    """Read the model and its data, and analyse it.

    Args:
        model: A path or a model object.
        calibration: Samples, or None.
        options: How to prune.
        holding_out: What holds samples out, so that there must be enough of them.
        plan: What stays, in place of scores.
        progress: Told how far it is.
        folder: Where new weights may lie until they are written, as in `load`.
        certification: Samples that are held out in the place of some of the others, or None.
        decides: Whether anything is to be decided by the samples: if not, none are held out.

    Raises:
        OnnxPfpError: The model, the data, the providers or a pattern are not what they must be.
    """
    clock = Clock(progress) if progress else Clock()
    with clock.phase("load"):
        source = load(model, folder)
        source, session, requests = open_model(source, options)
        data = read_data(source, session, calibration, options, certification, decides=decides)
    source, classes = keep_classes(source, data, options, None if plan is None else plan.classes, requests, clock)
    if classes is not None:
        with clock.phase("load"):
            source, session, requests = open_model(source, options)
        plan = None if plan is None else plan_of_rest(plan, classes)
    options = options.choosing(measured=data.telling)
    for what in holding_out if calibration is not None else ():
        require_split(data, what)
    whole = analyze(source, data, options, clock)
    full = QUANTITIES[options.target[0]].whole(whole, OpLatencies.unmeasured())
    alignment = alignment_for(options, session.providers, whole)
    return RunContext(
        whole, data, requests, session.providers, options, plan, full, clock, alignment=alignment, classes=classes
    )
