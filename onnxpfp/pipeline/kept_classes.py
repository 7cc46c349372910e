"""Classes go first: the model with the classes that stay is the original for all that follows.

The step is checked like a pruning: the original without the others' outputs must be the model that is left
(`onnxpfp.comparison.equivalence`). Where a Softmax is over the classes, its sum in the original is over those that
stay, too: the scores of the others are minus infinity, of which the exponential is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxpfp.arrays import Keep
from onnxpfp.bodies.insert import store_in_nodes
from onnxpfp.bodies.move import with_weights_outside
from onnxpfp.channels import Analysis
from onnxpfp.channels.class_axes import ReleasedOutputs, normalised_axes, release_outputs
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.channels.macs import count_stored
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.data.class_names import METADATA_NAMES, names_in_metadata, read_class_names
from onnxpfp.data.splits import CalibrationData
from onnxpfp.errors import VerificationError
from onnxpfp.model.constants import all_names
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE, add_constants
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.names import free_name, node_name
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze
from onnxpfp.pipeline.class_choice import chosen_classes, require_free, require_nothing_else
from onnxpfp.pipeline.plan import PlanEntry, PlannedClasses, make_plan
from onnxpfp.progress import Clock
from onnxpfp.rewrite import apply, call_again, restore
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.providers import ProviderRequest

__all__ = ["KeptClasses", "keep_classes"]

ORACLE_RUNS = 2
ORACLE_BATCH = 4


@dataclass(frozen=True, slots=True, eq=False)
class KeptClasses:
    """The classes that stay, and what it was to let the others go.

    Attributes:
        original: The model with all classes.
        planned: The classes that stay, and where they stand.
        names: Names of all classes; none where they are not known.
        renormalised: Softmax nodes that are over the classes that stay now.
        params: Stored numbers of the weights, before and after.
        bytes: Size of the file, likewise.
        oracle: The model against the original without the other classes.
        entries: What stays of the weights of the file, as in a plan; of those that its initializers tell all about,
            and of the others.
        stale_names: Whether the file's metadata goes on naming all classes.
    """

    original: LoadedModel
    planned: PlannedClasses
    names: tuple[str, ...]
    renormalised: tuple[str, ...]
    params: tuple[int, int]
    bytes: tuple[int, int]
    oracle: Equivalence
    entries: tuple[Mapping[str, PlanEntry], Mapping[str, PlanEntry]]
    stale_names: bool


def keep_classes(
    source: LoadedModel,
    data: CalibrationData,
    options: Options,
    planned: PlannedClasses | None,
    requests: Sequence[ProviderRequest],
    clock: Clock,
) -> tuple[LoadedModel, KeptClasses | None]:
    """Let all classes go that are not asked for.

    Args:
        source: The model.
        data: Its data, on which the result is compared.
        options: Which classes stay.
        planned: What a plan says of them; None where there is none.
        requests: Where to run.
        clock: Counts the seconds.

    Returns:
        The model that is left, and what went; None where all classes stay.

    Raises:
        OptionError: It is not known which indices the classes are, or there are no such classes, or they cannot go.
        VerificationError: What is left computes something else.
    """
    if options.keep_classes is None and planned is None:
        return source, None
    analysis = analyze(source, data, replace(options, include=(), exclude=()), clock)
    with clock.phase("channels"):
        released = release_outputs(analysis, options.attention)
    metadata = {entry.key: entry.value for entry in source.given.metadata_props}
    in_file = names_in_metadata(metadata)
    names = in_file if options.class_names is None else read_class_names(options.class_names)
    chosen = chosen_classes(released, options, planned, names)
    count = chosen.axes[0].count
    if len(names) != count:
        names = ()
    dropped = sorted(set(range(count)) - set(chosen.kept))
    if not dropped:
        return source, None
    require_free(released, chosen, dropped)
    keep = released.goes(chosen.axes, dropped)
    require_nothing_else(released, chosen, dropped, keep)
    understood = replace(analysis, graph=released.graph)
    with clock.phase("rewrite"):
        model = _without(understood, keep)
    with clock.phase("verification"):
        oracle = _verify(released, understood, keep, model, data, options, requests)
    cut = source.cut_to(source.completed(model))
    told = make_plan(file_axes(understood), keep, sha256="", scales={}, groups=(), attention=options.attention)
    kept = KeptClasses(
        original=source,
        planned=chosen,
        names=names,
        renormalised=tuple(node_name(analysis.model.graph.node[n]) for n in released.renormalising(keep)),
        params=(count_stored(source.whole), count_stored(cut.whole)),
        bytes=(source.size_bytes, cut.size_bytes),
        oracle=oracle,
        entries=(told.initializers, told.computed),
        stale_names=METADATA_NAMES in metadata and len(in_file) == count,
    )
    return cut, kept


def _without(analysis: Analysis, keep: Keep) -> ModelProto:
    """Take the classes out of a model; what was not touched computes as the file does."""
    source = analysis.source
    pruned = apply(analysis.model, analysis.graph, keep, Edits(), source.scratch)
    model = ModelProto()
    model.CopyFrom(call_again(restore(pruned, analysis, keep), source))
    with_weights_outside(model, source.given)
    if model.ir_version < INITIALIZERS_ARE_FREE:
        store_in_nodes(model.graph)
    for info in model.graph.output:
        for dim, ids in zip(info.type.tensor_type.shape.dim, analysis.graph.axes.get(info.name, ()), strict=False):
            if dim.dim_value > 0:
                dim.dim_value = int(np.count_nonzero(keep[ids]))
    return model


def _verify(
    released: ReleasedOutputs,
    analysis: Analysis,
    keep: Keep,
    model: ModelProto,
    data: CalibrationData,
    options: Options,
    requests: Sequence[ProviderRequest],
) -> Equivalence:
    """Hold what is left against the original without the other classes.

    Raises:
        VerificationError: They differ.
    """
    check(analysis.model, model, analysis.source.given)
    batches = data.samples.batches(min(data.batch_size, ORACLE_BATCH))
    try:
        return check_equivalence(
            _hiding(released, analysis, keep),
            model,
            [feed for feed, _ in zip(batches, range(ORACLE_RUNS), strict=False)],
            allowed=tolerance(analysis.model, analysis.shapes),
            kept=partial(what_stays, analysis.graph, keep),
            providers=requests,
            threads=options.threads,
        )
    except VerificationError as error:
        text = str(error).replace("the masked original", "the original without the other classes")
        raise VerificationError(
            text.replace("the pruned model", "the model with the kept classes"), hint=error.hint
        ) from error


def _hiding(released: ReleasedOutputs, analysis: Analysis, keep: Keep) -> ModelProto:
    """Hide the classes that go from every Softmax over them: minus infinity is added to their scores."""
    positions = set(released.renormalising(keep))
    if not positions:
        return analysis.model
    model = ModelProto()
    model.CopyFrom(analysis.model)
    taken = all_names(model.graph)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for position, node in enumerate(nodes):
        if position in positions:
            axes = analysis.graph.axes[node.input[0]]
            hidden = np.zeros((1,) * len(axes), helper.tensor_dtype_to_np_dtype(analysis.shapes.dtype[node.input[0]]))
            for axis in normalised_axes(analysis.model, node, analysis.graph):
                shape = [-1 if number == axis else 1 for number in range(len(axes))]
                hidden = hidden + np.where(keep[axes[axis]], 0, -np.inf).astype(hidden.dtype).reshape(shape)
            name, result = (free_name(f"{node.input[0]}_{what}", taken) for what in ("hidden", "kept"))
            add_constants(model, [numpy_helper.from_array(hidden, name)])
            model.graph.node.append(helper.make_node("Add", [node.input[0], name], [result]))
            node.input[0] = result
        model.graph.node.append(node)
    return model
