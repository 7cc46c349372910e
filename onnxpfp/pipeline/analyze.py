"""Everything that is known of a model before the first decision: where it runs, its shapes, its channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxpfp.bodies.graphs import names_inside
from onnxpfp.bodies.move import with_weights_in_bodies
from onnxpfp.channels import Analysis, Patterns, build_channel_graph
from onnxpfp.channels.constant_branches import inline_constant_if
from onnxpfp.channels.decouple import decouple_shuffles
from onnxpfp.data.splits import CalibrationData
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import Constants, all_graphs, stores_matrix
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.shapes import concrete_shapes
from onnxpfp.options import Options
from onnxpfp.progress import Clock
from onnxpfp.runtime.missing import missing_op
from onnxpfp.runtime.providers import ProviderRequest, resolve_providers
from onnxpfp.runtime.session import Session, open_session

__all__ = ["analyze", "analyze_at", "open_model"]

CUSTOM_OPS_HINT = "--custom-ops LIBRARY registers the ops of a library with onnxruntime"


def open_model(source: LoadedModel, options: Options) -> tuple[LoadedModel, Session, tuple[ProviderRequest, ...]]:
    """Make sure that onnxruntime runs the model, and where.

    Returns:
        The model, as far as onnxruntime has its ops, a session of it, and the providers.

    Raises:
        ModelError: It cannot load it.
        OptionError: Only the CPU is asked for, and strictly another provider.
        ProviderError: A provider that was asked for cannot run here.
    """
    requests = resolve_providers(options.providers, strict=options.strict_providers)
    while True:
        try:
            session = open_session(source.model, requests, threads=options.threads, shared=True)
            break
        except ModelError as error:
            missing = missing_op(error)
            head = None if missing is None else source.without(missing, str(error))
            if head is None or missing is None:
                raise ModelError(f"{source.title}: {error}", hint=error.hint or _type_hint(source.model)) from error
            if not any(map(stores_matrix, all_graphs(head.model))):
                raise ModelError(
                    f"{source.title}: {error}, and no weights lie before {missing.title}",
                    hint=_type_hint(source.model) or CUSTOM_OPS_HINT,
                ) from error
            source = head
    drawn = with_fixed_draws(source.model)
    if drawn is not source.model:
        session = open_session(drawn, requests, threads=options.threads, shared=True)
    return source, session, requests


def _type_hint(model: ModelProto) -> str:
    """Say what to do about weights of a type for which onnxruntime lacks kernels."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    for name in ("DOUBLE", "BFLOAT16"):
        if TensorProto.DataType.Value(name) in types:
            return f"some weights are {name.lower()}, for which not every op runs here: save the model in float32"
    return ""


def analyze(source: LoadedModel, data: CalibrationData, options: Options, clock: Clock | None = None) -> Analysis:
    """Find the shapes, constants and channels of a model at the shapes of its data.

    Args:
        source: The model.
        data: Its data.
        options: As in `analyze_at`.
        clock: As in `analyze_at`.

    Raises:
        ModelError: The model does not run at these shapes.
        OptionError: A pattern matches nothing.
    """
    feed = next(data.samples.batches(1))
    shapes = {name: tuple(array.shape) for name, array in feed.items()}
    return analyze_at(source, shapes, options, feed, clock)


def analyze_at(
    source: LoadedModel,
    input_shapes: Mapping[str, tuple[int, ...]],
    options: Options,
    feed: Mapping[str, NDArray[Any]] | None = None,
    clock: Clock | None = None,
) -> Analysis:
    """Find the shapes, constants and channels of a model.

    Args:
        source: The model.
        input_shapes: Shapes of inputs with free axes; sensible ones are taken for the others.
        options: Which nodes and initializers may be pruned, and what goes from an attention.
        feed: Inputs of these shapes, where there are any.
        clock: Counts the seconds, where somebody wants to know them.

    Raises:
        ModelError: Shapes cannot be inferred, and the model does not run at these input shapes.
        OptionError: A pattern matches nothing, or a shape does not fit.
    """
    clock = clock or Clock()
    analysis = _analysed(source, input_shapes, options, feed, clock)
    # Branches first: within one there may be another, and shuffles.
    while (other := _in_other_words(analysis, clock)) is not None:
        analysis = _analysed(analysis.source.rewritten(other), input_shapes, options, feed, clock)
    return analysis


def _in_other_words(analysis: Analysis, clock: Clock) -> ModelProto | None:
    """Write a model so that more of it can be told apart, or return None where it already is."""
    model, graph = analysis.source.model, analysis.graph
    with clock.phase("channels"):
        return (
            inline_constant_if(model, graph)
            or decouple_shuffles(model, graph, analysis.shapes)
            or with_weights_in_bodies(model)
        )


def _analysed(
    source: LoadedModel,
    input_shapes: Mapping[str, tuple[int, ...]],
    options: Options,
    feed: Mapping[str, NDArray[Any]] | None,
    clock: Clock,
) -> Analysis:
    with clock.phase("shapes"):
        shapes = concrete_shapes(source.model, input_shapes, feed)
        source = source.with_shapes(shapes)
        constants = Constants.of(source.model)
    with clock.phase("channels"):
        patterns = Patterns(
            options.include, options.exclude, source.names | names_inside(source.model.graph), source.place
        )
        graph = build_channel_graph(
            source.model, shapes, constants, patterns, options.attention, source.tail.reasons if source.tail else {}
        )
    return Analysis(source, shapes, constants, graph, ModelIndex.of(source.model))
