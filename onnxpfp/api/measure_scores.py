"""Measure the scores of a network once, for prunings to any number of targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.data.shards import ALL_SAMPLES, Shard
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.model.load import ModelSource
from onnxpfp.options.scores import ScoreOptions
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.nothing_to_prune import require_groups
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.scores.run import score_network
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.progress import Progress
from onnxpfp.report.draws import draws_notes
from onnxpfp.report.scores import ScoresReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["ScoreArguments", "measure_scores", "score_with"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreArguments(ScoreOptions):
    """Keywords of `measure_scores`: the options, and what only programs give."""

    calibration: SampleSource | None = field(metadata=documented("Samples, as in `onnxpfp.prune`; not noise."))
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(ScoreArguments)
def measure_scores(model: ModelSource, arguments: ScoreArguments) -> ScoresReport:
    """Measure what a pruning is decided by; `report.scores.save(path)` writes the file for `prune(scores=path)`.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data or the options; its children in `onnxpfp.errors` say
            which.
    """
    return score_with(model, arguments.calibration, arguments, progress=arguments.progress)


def score_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: ScoreOptions,
    *,
    progress: Progress | None = None,
    title: str = "the scores",
) -> ScoresReport:
    """Measure it, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples; None and noise are refused.
        asked: How to measure.
        progress: Told how far it is.
        title: What messages call the file.

    Raises:
        OnnxPfpError: As in `measure_scores`.
    """
    if calibration is None:
        raise CalibrationError("scores are measured on data, and none are given", hint="give --calib-data FILE.npz")
    if isinstance(calibration, str) and calibration == "random":
        raise OptionError("scores are of data of yours, and --calib-data random is noise")
    shard = ALL_SAMPLES if asked.shard is None else Shard.parse(asked.shard)
    options = asked.running()
    with custom_ops(asked.custom_ops), one_blas_thread():
        context = open_run(model, calibration, options, (), progress=progress)
        network = zero_subnormal_weights(open_parts(context))
        require_groups(network, options)
        scores = score_network(network, shard, title)
    source = context.whole.source
    return ScoresReport.of(
        scores,
        file=str(source.path) if source.path else None,
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        notes=tuple(_notes(network)),
    )


def _notes(network: Network) -> Iterator[str]:
    context = network.parts[0].context
    yield from context.whole.source.notes
    yield from context.data.notes
    yield from draws_notes(context.whole.model)
    yield from (f"{body.place} stays, for {body.reason}" for body in network.left)
