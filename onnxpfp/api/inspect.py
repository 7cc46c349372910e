"""Inspect a model: what could be pruned, its share of the model, and why the rest stays; nothing is pruned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnxpfp.api.keywords import ModelSource, keywords
from onnxpfp.bodies.graphs import bodies_of
from onnxpfp.channels import Analysis, Fixed
from onnxpfp.channels.macs import count_stored
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.errors import CalibrationError, ModelError, OptionError
from onnxpfp.lossless.subnormal import of_file, subnormal_weights
from onnxpfp.model.activation_memory import activation_peak
from onnxpfp.model.input_shapes import default_input_shapes, has_made_up_lengths
from onnxpfp.model.load import LoadedModel, load
from onnxpfp.options.inspection import InspectOptions
from onnxpfp.pipeline.analyze import analyze_at
from onnxpfp.pipeline.footprint import (
    Footprint,
    WeightFootprint,
    axis_footprint,
    group_footprints,
    staying_axes,
    totals,
    weight_footprints,
)
from onnxpfp.pipeline.latency.subnormal import subnormal_cost
from onnxpfp.pipeline.made_up_run import MadeUpRun
from onnxpfp.pipeline.nothing_to_prune import blame_missing_ops, why_no_part
from onnxpfp.pipeline.parts import AnalyzedPart, LeftBody, open_parts
from onnxpfp.progress import Clock, Progress
from onnxpfp.report.inspection import InspectedBody, InspectedGroup, Inspection, NodeName, Stay, Subnormal
from onnxpfp.report.reasons import by_kind
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.providers import resolve_providers
from onnxpfp.runtime.session import custom_ops

__all__ = ["inspect", "inspect_with"]


@keywords(InspectOptions)
def inspect(model: ModelSource, arguments: InspectOptions) -> Inspection:
    """Find what of a model could be pruned, and why the rest could not.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model or the options; its children in `onnxpfp.errors` say which.
    """
    return inspect_with(model, arguments)


def inspect_with(model: ModelSource, asked: InspectOptions, *, progress: Progress | None = None) -> Inspection:
    """Find it, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        asked: The input shapes, what may be pruned, and how runs are measured.
        progress: Told how far it is where the model is run.

    Raises:
        OnnxPfpError: As in `inspect`.
    """
    options = asked.running()
    resolve_providers(options.providers, strict=options.strict_providers)
    source = load(model)
    run = MadeUpRun(source, options, Clock(progress) if progress else Clock())
    with custom_ops(options.custom_ops), one_blas_thread():
        analysis = _understand(run)
        parts, left = _parts(analysis, run)
        subnormal = _subnormal(parts)
        if subnormal.weights and not options.no_latency:
            subnormal = _timed(subnormal, analysis, run)
    nothing = _why_nothing(analysis, parts, left)
    amounts = [(totals(part.analysis), part.runs) for part in parts]
    reached = [_times(reachable, runs) for (_, reachable), runs in amounts]
    macs = sum(_times(total, runs).macs for (total, _), runs in amounts)
    total = Footprint(count_stored(analysis.source.whole), macs)
    groups = tuple(sorted(_groups(parts), key=lambda group: -group.behind.share_of(total)))
    return Inspection(
        file=str(source.path) if source.path else None,
        opsets={o.domain or "ai.onnx": o.version for o in source.model.opset_import},
        ir_version=source.model.ir_version,
        nodes=len(source.model.graph.node),
        inputs=dict(analysis.shapes.inputs),
        attention=options.attention,
        total=total,
        reachable=Footprint(sum(each.params for each in reached), sum(each.macs for each in reached)),
        groups=groups,
        stays=_stays(parts, total),
        bodies=(*_bodies(parts[1:]), *(InspectedBody(body.place, None, None, body.reason) for body in left)),
        activations=activation_peak(analysis.model, analysis.shapes),
        subnormal=subnormal,
        notes=analysis.source.notes,
        nothing=nothing,
    )


def _why_nothing(analysis: Analysis, parts: Sequence[AnalyzedPart], left: Sequence[LeftBody]) -> str:
    """Say why nothing can be pruned; empty where something can.

    Raises:
        ModelError: Ops that onnxruntime lacks are why.
    """
    if any(group.channels.size > 1 for part in parts for group in part.analysis.graph.groups):
        return ""
    stay = [(body.place, body.reason) for body in left]
    nothing = why_no_part(analysis, [part.analysis for part in parts[1:]], stay)
    blame_missing_ops(analysis, f": {nothing}")
    return nothing


def _subnormal(parts: Sequence[AnalyzedPart]) -> Subnormal:
    """Count the subnormal weights of all parts."""
    of_parts = (of_file(part.analysis, subnormal_weights(part.analysis)) for part in parts)
    counts = [count for counts in of_parts for count in counts.values()]
    return Subnormal(sum(counts), len(counts))


def _timed(subnormal: Subnormal, analysis: Analysis, run: MadeUpRun) -> Subnormal:
    """Measure what they cost; where the model does not run, say so.

    Raises:
        ProviderError: A provider that was asked for cannot run here.
    """
    try:
        cost = subnormal_cost(run.context(analysis))
    except (CalibrationError, ModelError) as error:
        return replace(subnormal, latency=LatencyFindings(unmeasured=str(error)))
    return replace(subnormal, zeroed=cost.zeroed, latency=cost.latency)


def _times(amount: Footprint, runs: float) -> Footprint:
    """Count what runs so often."""
    return Footprint(amount.params, round(amount.macs * runs))


def _parts(analysis: Analysis, run: MadeUpRun) -> tuple[Sequence[AnalyzedPart], Sequence[LeftBody]]:
    """Find the bodies of a model, by running it on made-up inputs; where that is not possible, all of them stay."""
    bodies = bodies_of(analysis.model)
    if not bodies:
        return [AnalyzedPart(analysis)], []
    try:
        context = run.context(analysis)
    except (CalibrationError, ModelError) as error:
        return [AnalyzedPart(analysis)], [LeftBody(body.place, str(error)) for body in bodies]
    network = open_parts(context)
    return [part.analyzed for part in network.parts], network.left


def _bodies(parts: Sequence[AnalyzedPart]) -> Iterator[InspectedBody]:
    for part in parts:
        yield InspectedBody(part.analysis.source.place, part.runs, totals(part.analysis)[0].macs, "")


def _understand(run: MadeUpRun) -> Analysis:
    """Analyse a model, also one that onnxruntime does not run, as long as that is not needed to find its shapes.

    Raises:
        ModelError: It is broken.
    """
    source, given = run.source, run.options.input_shapes
    try:
        return _analyze(run, source, _shapes(run))
    except OptionError:
        raise
    except Exception:
        # Whatever a broken model made fail, onnxruntime says what is wrong with it; if it runs the model, we failed.
        if run.runnable.tail is not None:
            return _analyze(run, run.runnable, given)
        with contextlib.suppress(CalibrationError):
            _ = run.data
        if run.shapes == default_input_shapes(source.model, given):
            raise
        return _analyze(run, source, run.shapes)


def _analyze(run: MadeUpRun, source: LoadedModel, shapes: Mapping[str, tuple[int, ...]]) -> Analysis:
    return analyze_at(source, shapes, run.options, clock=run.clock)


def _shapes(run: MadeUpRun) -> Mapping[str, tuple[int, ...]]:
    """Return what is given, and lengths that the model runs at where some have to be made up."""
    given = run.options.input_shapes
    if has_made_up_lengths(run.source.model, given):
        with contextlib.suppress(ModelError):
            return run.shapes
    return given


def _groups(parts: Sequence[AnalyzedPart]) -> Iterator[InspectedGroup]:
    for part in parts:
        graph = part.analysis.graph
        for group, amount in zip(graph.groups, group_footprints(part.analysis), strict=True):
            if group.channels.size > 1:
                yield InspectedGroup(
                    name=part.named(group.name),
                    channels=int(group.channels.size),
                    behind=_times(amount, part.runs),
                    consumers=tuple(NodeName(graph.consumers[c].op, graph.consumers[c].name) for c in group.consumers),
                )


def _stays(parts: Sequence[AnalyzedPart], total: Footprint) -> tuple[Stay, ...]:
    axes: list[Fixed] = []
    weights: dict[str, WeightFootprint] = {}
    for part in parts:
        for name, weight in weight_footprints(part.analysis).items():
            amounts = _times(weight.all, part.runs), _times(weight.stuck, part.runs)
            weights[part.named(name)] = WeightFootprint(weight.shape, *amounts)
        axes += (replace(fixed, tensor=part.named(fixed.tensor)) for fixed in staying_axes(part.analysis))
    axes.sort(key=lambda fixed: -axis_footprint([fixed], weights)[0].params)
    stays = [Stay(reason, tuple(same), *axis_footprint(same, weights)) for reason, same in by_kind(axes).items()]
    return tuple(sorted(stays, key=lambda stay: -stay.behind.share_of(total)))
