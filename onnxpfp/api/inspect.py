"""Inspect a model: what could be pruned, its share of the model, and why the rest stays; nothing is pruned."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from onnxpfp.api.keywords import ModelSource, keywords
from onnxpfp.channels import Analysis, Fixed
from onnxpfp.errors import CalibrationError, ModelError, OptionError, ProviderError
from onnxpfp.model.input_shapes import default_input_shapes, has_made_up_lengths
from onnxpfp.model.load import LoadedModel, load
from onnxpfp.options import Options, ScopeOptions, declared
from onnxpfp.pipeline.analyze import analyze_at, open_model, read_data
from onnxpfp.pipeline.footprint import (
    Footprint,
    WeightFootprint,
    axis_footprint,
    group_footprints,
    staying_axes,
    totals,
    weight_footprints,
)
from onnxpfp.pipeline.requirements import require_groups, why_nothing
from onnxpfp.pipeline.runnable_shapes import runnable_shapes
from onnxpfp.report.inspection import InspectedGroup, Inspection, NodeName, Stay
from onnxpfp.report.reasons import by_kind
from onnxpfp.runtime.session import custom_ops

__all__ = ["inspect", "inspect_with"]


@keywords(ScopeOptions)
def inspect(model: ModelSource, arguments: ScopeOptions) -> Inspection:
    """Find what of a model could be pruned, and why the rest could not.

    Args:
        model: A path or a model object; it is not changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with the model or the options; its children in `onnxpfp.errors` say which.
    """
    return inspect_with(model, arguments)


def inspect_with(model: ModelSource, scope: ScopeOptions) -> Inspection:
    """Find it, with validated options; the command line comes in here.

    Args:
        model: A path or a model object.
        scope: The input shapes, and what may be pruned.

    Raises:
        OnnxPfpError: As in `inspect`.
    """
    options = Options(**{name: getattr(scope, name) for name, _ in declared(ScopeOptions)})
    source = load(model)
    with custom_ops(options.custom_ops):
        analysis = _understand(source, options)
    total, reachable = totals(analysis)
    groups = _groups(analysis, total)
    return Inspection(
        file=str(source.path) if source.path else None,
        opsets={o.domain or "ai.onnx": o.version for o in source.model.opset_import},
        ir_version=source.model.ir_version,
        nodes=len(source.model.graph.node),
        inputs=dict(analysis.shapes.inputs),
        attention=options.attention,
        total=total,
        reachable=reachable,
        groups=groups,
        stays=_stays(staying_axes(analysis), weight_footprints(analysis), total),
        notes=analysis.source.notes,
        nothing="" if groups else why_nothing(analysis),
    )


def _understand(source: LoadedModel, options: Options) -> Analysis:
    """Analyse a model, also one that onnxruntime does not run, as long as that is not needed to find its shapes.

    Raises:
        ModelError: It is broken.
    """
    try:
        return analyze_at(source, _shapes(source, options), options)
    except OptionError:
        raise
    except Exception:
        # Whatever a broken model made fail, onnxruntime says what is wrong with it; if it runs the model, we failed.
        runnable, session, _ = open_model(source, options)
        if runnable.tail is not None:
            analysis = analyze_at(runnable, options.input_shapes, options)
            require_groups(analysis, options)
            return analysis
        with contextlib.suppress(CalibrationError):
            read_data(source, session, None, options)
        shapes = runnable_shapes(source.model, session, options.input_shapes)
        if shapes is None or shapes == default_input_shapes(source.model, options.input_shapes):
            raise
        return analyze_at(source, shapes, options)


def _shapes(source: LoadedModel, options: Options) -> Mapping[str, tuple[int, ...]]:
    """Return what is given, and lengths that the model runs at where some have to be made up."""
    if not has_made_up_lengths(source.model, options.input_shapes):
        return options.input_shapes
    with contextlib.suppress(ModelError, ProviderError):
        runnable, session, _ = open_model(source, options)
        return runnable_shapes(runnable.model, session, options.input_shapes) or options.input_shapes
    return options.input_shapes


def _groups(analysis: Analysis, total: Footprint) -> tuple[InspectedGroup, ...]:
    graph = analysis.graph
    groups = [
        InspectedGroup(
            name=group.name,
            channels=int(group.channels.size),
            behind=amount,
            consumers=tuple(NodeName(graph.consumers[c].op, graph.consumers[c].name) for c in group.consumers),
        )
        for group, amount in zip(graph.groups, group_footprints(analysis), strict=True)
        if group.channels.size > 1
    ]
    return tuple(sorted(groups, key=lambda group: -group.behind.share_of(total)))


def _stays(axes: Sequence[Fixed], weights: Mapping[str, WeightFootprint], total: Footprint) -> tuple[Stay, ...]:
    largest_first = sorted(axes, key=lambda fixed: -axis_footprint([fixed], weights)[0].params)
    stays = [
        Stay(reason, tuple(same), *axis_footprint(same, weights)) for reason, same in by_kind(largest_first).items()
    ]
    return tuple(sorted(stays, key=lambda stay: -stay.behind.share_of(total)))
