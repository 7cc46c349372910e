"""Measure a latency table, or write the models with which one is measured on another device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.data.sources import SampleSource
from onnxpfp.model.load import ModelSource
from onnxpfp.options.latency import LatencyOptions
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.latency.form import write_form
from onnxpfp.pipeline.latency.summary import LatencySummary, summarize
from onnxpfp.pipeline.latency.target import measure_table, with_latencies
from onnxpfp.pipeline.parts import Network, open_parts
from onnxpfp.pipeline.subnormal_step import zero_subnormal_weights
from onnxpfp.progress import Progress
from onnxpfp.report.latency_table import LatencyReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["LatencyArguments", "latency", "latency_with"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyArguments(LatencyOptions):
    """Keywords of `latency`: the options, and what only programs give."""

    calibration: SampleSource | None = field(
        default=None, metadata=documented("Samples to run on, as in `onnxpfp.prune`; None is noise.")
    )
    models: str | os.PathLike[str] | None = field(
        default=None,
        metadata=documented(
            "A folder, to measure elsewhere: the models at all widths are written there, nothing is measured, and the "
            "table of the report is a form."
        ),
    )
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(LatencyArguments)
def latency(model: ModelSource, arguments: LatencyArguments) -> LatencyReport:
    """Measure what a model and its ops take at several widths; `report.table.save(path)` writes the table.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model, the data, the options or the folder, or a latency cannot be
            measured; its children in `onnxpfp.errors` say which.
    """
    models = None if arguments.models is None else Path(arguments.models)
    return latency_with(model, arguments.calibration, arguments, models=models, progress=arguments.progress)


def latency_with(
    model: ModelSource,
    calibration: SampleSource | None,
    asked: LatencyOptions,
    *,
    models: Path | None = None,
    progress: Progress | None = None,
) -> LatencyReport:
    """Measure it, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        calibration: Samples, or None for noise.
        asked: How to run it.
        models: A folder for the models of a form; None measures here.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: As in `latency`.
    """
    with custom_ops(asked.custom_ops), one_blas_thread():
        context = open_run(model, calibration, asked.running(), (), progress=progress, decides=False)
        # What is measured is what a pruning goes on with.
        network = zero_subnormal_weights(open_parts(context))
        found: LatencySummary | None = None
        if models is not None:
            table = write_form(network, models)
        else:
            table = measure_table(network)
            fitted, _ = with_latencies(network, table)
            found = summarize(fitted, network, table)
    whole = context.whole
    return LatencyReport(
        file=str(whole.source.path) if whole.source.path else None,
        inputs=dict(whole.shapes.inputs),
        samples=table.batch,
        table=table,
        found=found,
        models=None if models is None else str(models),
        providers=context.providers,
        seconds=dict(context.clock.seconds),
        notes=(*_notes(network),),
    )


def _notes(network: Network) -> Iterator[str]:
    context = network.parts[0].context
    yield from context.whole.source.notes
    yield from context.data.notes
    if not any(part.prunable for part in network.parts):
        yield "nothing in it can be pruned, so there is one choice of widths; `onnxpfp inspect` says why"
    yield from (f"{body.place} stays, for {body.reason}" for body in network.left)
    zeroed = sum(part.context.subnormal.zeroed for part in network.parts)
    if zeroed:
        yield f"{zeroed:,} subnormal weights were taken for zero, as `onnxpfp prune` does; the file may be slower"
