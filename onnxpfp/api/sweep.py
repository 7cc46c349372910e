"""Several prunings from one calibration: one model for each target, as `prune` makes it for that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxpfp.api.keywords import CALIBRATION, CERTIFICATION, PROGRESS, SCORES_FILE, documented, in_keywords, keywords
from onnxpfp.api.prune import Result, evaluators_for, noting, prune_measured
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import TargetUnreachableError, VerificationError
from onnxpfp.model.load import ModelSource
from onnxpfp.options.sweep import SweepOptions, SweepTarget
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.latency.table import LatencyTable
from onnxpfp.pipeline.latency.target import LatencyTarget, aimed_latency, latency_table_for, with_latencies
from onnxpfp.pipeline.nothing_to_prune import require_groups
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.quality_search import Evaluators
from onnxpfp.pipeline.quality_target import QualityTarget
from onnxpfp.pipeline.requirements import holding_out, require_data, require_own_certification
from onnxpfp.pipeline.scores.file import ScoresFile, ScoresSource, opened_file
from onnxpfp.pipeline.scores.use import at_shapes_of, of_channels, require_usable, with_given_scores
from onnxpfp.pipeline.several_targets import BegunPart, aimed_parts, begin_parts, begins_as, with_target
from onnxpfp.pipeline.shares import unreachable_by_shares, with_shares
from onnxpfp.pipeline.size_target import with_size_met
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.progress import Clock, Progress
from onnxpfp.report.sweep import SweepReport
from onnxpfp.report.swept import SweptModel
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["SweepArguments", "SweepResult", "sweep", "sweep_with"]

Take = Callable[[SweepTarget, Result], str | None]
"""Takes a model as soon as it is made; returns the file that it was written to, if it was."""


@dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """The models of a sweep.

    Attributes:
        results: What `prune` returns, by target; a target that could not be met is missing.
        report: What is known about all of them, with the reasons why some are missing.
    """

    results: Mapping[float, Result]
    report: SweepReport


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepArguments(SweepOptions):
    """Keywords of `sweep`: the options, and what only programs give."""

    calibration: SampleSource | None = field(default=None, metadata=documented(CALIBRATION))
    certification: SampleSource | None = field(default=None, metadata=documented(CERTIFICATION))
    scores: ScoresSource | None = field(default=None, metadata=documented(SCORES_FILE))
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(SweepArguments)
def sweep(model: ModelSource, arguments: SweepArguments) -> SweepResult:
    """Prune a model to several targets: one calibration, one model each, the same as `prune` makes of each alone.

    A target that cannot be met, or whose model does not pass its verification, is no error as long as something can be
    pruned at all: the report has the reason. Latencies are measured, so models for targets of latency are those of
    `prune` only with a latency_table.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data or the options; its children in `onnxpfp.errors` say
            which.
    """
    results: dict[float, Result] = {}

    def take(target: SweepTarget, result: Result) -> None:
        results[target.value] = result

    report = sweep_with(
        model,
        arguments.calibration,
        arguments,
        take,
        certification=arguments.certification,
        scores=arguments.scores,
        progress=arguments.progress,
    )
    models = tuple(replace(each, reason=in_keywords(each.reason)) for each in report.models)
    return SweepResult(results, replace(report, models=models))


def sweep_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: SweepOptions,
    take: Take,
    *,
    certification: SampleSource | None = None,
    scores: ScoresSource | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> SweepReport:
    """Prune a model to several targets with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None.
        asked: The targets, and how to prune.
        take: Takes every model as soon as it is verified.
        certification: Samples that only measure the results, as in `onnxpfp.api.prune.prune_with`.
        scores: A file of scores that the network is pruned by, likewise.
        progress: Told how far it is.
        folder: Where new weights may lie until they are written, likewise.

    Raises:
        OnnxPfpError: As in `sweep`.
    """
    with custom_ops(asked.custom_ops), one_blas_thread():
        file = None if scores is None else opened_file(scores)
        targets = asked.targets if file is None else _by_scores(asked.targets, file, calibration)
        first = targets[0].options
        require_data(calibration, first, replaying=False, scored=file is not None)
        require_own_certification(calibration, certification)
        context = open_run(
            model,
            calibration,
            first if file is None else of_channels(first),
            holding_out(first, replaying=False),
            progress=progress,
            folder=folder,
            certification=certification,
        )
        run = _Sweep(context, file, apart=certification is not None)
        try:
            aims = [run.aim(target) for target in targets]
        except TargetUnreachableError as error:
            if not asked.share:
                raise
            raise unreachable_by_shares(error) from error
        models = [run.model(aim, take) for aim in aims]
        return _report(context, asked, aims, models)


def _by_scores(
    targets: Sequence[SweepTarget], file: ScoresFile, calibration: SampleSource | None
) -> tuple[SweepTarget, ...]:
    """Return the targets of prunings by a file of scores.

    Raises:
        OptionError: Something that is asked for does not go with it.
        ScoresError: It lacks some of its samples.
    """
    for target in targets:
        require_usable(file, calibration, target.options, replaying=False)
    if calibration is not None:
        return tuple(targets)
    return tuple(replace(target, options=at_shapes_of(file, target.options)) for target in targets)


@dataclass(frozen=True, slots=True, eq=False)
class _Aim:
    """A target, and what is known of it before anything is measured.

    Attributes:
        target: The target.
        context: The run with this target, and a clock of its own.
        network: The network with the same.
        latency: The target of latency; None for others.
        quality: The target of quality; None for others.
        evaluators: What measures that.
    """

    target: SweepTarget
    context: RunContext
    network: Network
    latency: LatencyTarget | None
    quality: QualityTarget | None
    evaluators: Evaluators | None


@dataclass(slots=True, eq=False)
class _Sweep:
    """A run for several targets, and what was measured for all of them.

    Attributes:
        context: The run with the first target.
        scores: The scores that the network is pruned by; None where they are measured.
        apart: Whether the held-out samples are the user's own.
        networks: The network where something is to go, and where nothing is, with its target of latency.
        table: The latencies of the ops, once they are known.
        begun: What was measured of its parts, by what the targets say of that.
    """

    context: RunContext
    scores: ScoresFile | None
    apart: bool
    networks: dict[bool, tuple[Network, LatencyTarget | None]] = field(
        default_factory=dict[bool, tuple[Network, LatencyTarget | None]]
    )
    table: LatencyTable | None = None
    begun: dict[tuple[bool, bool], tuple[BegunPart, ...]] = field(
        default_factory=dict[tuple[bool, bool], tuple[BegunPart, ...]]
    )

    def aim(self, target: SweepTarget) -> _Aim:
        """Take a target up, and make sure that it can be aimed at.

        Raises:
            TargetUnreachableError: Nothing can be pruned.
            OptionError: The outputs have nothing of what is limited.
            CalibrationError: Too few samples are held out to promise it.
            LatencyTableError: The latency table is none of this network, or none can be measured.
            ScoresError: The scores are of another network, or were measured otherwise.
        """
        options = target.options if self.scores is None else of_channels(target.options)
        options = options.choosing(measured=self.context.data.telling)
        context = with_size_met(noting(replace(self.context, options=options), target.options))
        network, latency = self._network(context)
        if latency is not None:
            latency = aimed_latency(latency, options)
            aimed = replace(network.parts[0].context, options=options.keeping(latency.share))
            context = replace(aimed, provenance=context.provenance)
        context = replace(context, clock=Clock(_naming(target.title, self.context.clock.progress)))
        quality = QualityTarget.of(options)
        evaluators = None if quality is None else evaluators_for(quality, context, apart=self.apart)
        return _Aim(target, context, with_target(network, context), latency, quality, evaluators)

    def model(self, aim: _Aim, take: Take) -> SweptModel:
        """Prune to a target, and hand on what comes of it; the reason why nothing does is a value."""
        target = aim.target
        try:
            result = self._prune(aim)
        except (TargetUnreachableError, VerificationError) as raised:
            error = raised
            if target.options.share and isinstance(raised, TargetUnreachableError):
                error = unreachable_by_shares(raised)
            reason = f"{error}{f' ({error.hint})' if error.hint else ''}"
            return SweptModel(target.value, target.title, None, None, reason, error.exit_code)
        return SweptModel(target.value, target.title, take(target, result), result.report)

    def _network(self, context: RunContext) -> tuple[Network, LatencyTarget | None]:
        """Open the parts of the network, once for all targets that leave something to choose."""
        chooses = context.chooses
        if chooses not in self.networks:
            network, latency = zero_subnormal_weights(open_parts(context)), None
            if self.scores is not None:
                network = with_given_scores(network, self.scores)
            if context.options.share:
                network = with_shares(network, context.options)
            if chooses:
                require_groups(network, context.options)
            if chooses and context.options.target[0] == "latency":
                self.table = self.table or latency_table_for(network)
                network, latency = with_latencies(network, self.table)
            self.networks[chooses] = network, latency
        return self.networks[chooses]

    def _prune(self, aim: _Aim) -> Result:
        begins = begins_as(aim.context)
        if begins not in self.begun:
            # What is measured once is no part of the time of one pruning.
            shared = replace(aim.context, clock=self.context.clock)
            self.begun[begins] = begin_parts(with_target(aim.network, shared))
        parts = aimed_parts(self.begun[begins], aim.context)
        return prune_measured(
            aim.context, aim.network, parts, aim.target.options, aim.latency, aim.quality, aim.evaluators
        )


def _naming(title: str, progress: Progress) -> Progress:
    """Tell the target with every phase."""

    def tell(phase: str, done: int, total: int) -> None:
        progress(f"{title}: {phase}", done, total)

    return tell


def _report(
    context: RunContext, asked: SweepOptions, aims: Sequence[_Aim], models: Sequence[SweptModel]
) -> SweepReport:
    # Where classes went, what is left of the model has no file.
    source, seconds = context.classes.original if context.classes else context.whole.source, dict[str, float]()
    for clock in (context.clock, *(aim.context.clock for aim in aims)):
        for phase, time in clock.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + time
    return SweepReport(
        file=str(source.path) if source.path else None,
        inputs=dict(context.whole.shapes.inputs),
        asked=aims[0].target.name,
        before=next((each.report.before for each in models if each.report), None),
        confidence=asked.confidence,
        models=tuple(models),
        providers=context.providers,
        seconds=seconds,
        notes=tuple(_notes(models)),
    )


def _notes(models: Sequence[SweptModel]) -> Iterator[str]:
    """Yield the notes on all models, then those on some, with the names of these."""
    made = [each for each in models if each.report is not None]
    titles: dict[str, list[str]] = {}
    for each in made:
        for note in each.report.notes if each.report else ():
            titles.setdefault(note, []).append(each.title)
    yield from (note for note, of in titles.items() if len(of) == len(made))
    yield from (f"{', '.join(of)}: {note}" for note, of in titles.items() if len(of) < len(made))
