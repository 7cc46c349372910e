"""Classes go first: the model with the classes that stay is the original for all that follows.

The step is checked like a pruning: the original without the others' outputs must be the model that is left
(`onnxpfp.comparison.equivalence`). Where a Softmax is over the classes, its sum in the original is over those that
stay, too: the scores of the others are minus infinity, of which the exponential is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from onnxpfp.arrays import Keep
from onnxpfp.bodies.insert import store_in_nodes
from onnxpfp.bodies.move import with_weights_outside
from onnxpfp.channels import Analysis
from onnxpfp.channels.class_axes import ClassAxis, ReleasedOutputs, normalised_axes, release_outputs
from onnxpfp.channels.file_axes import file_axes
from onnxpfp.channels.macs import count_stored
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import Equivalence, check_equivalence, tolerance
from onnxpfp.data.class_names import METADATA_NAMES, classes_asked_for, names_in_metadata, read_class_names
from onnxpfp.data.splits import CalibrationData
from onnxpfp.errors import OptionError, VerificationError
from onnxpfp.model.constants import all_names
from onnxpfp.model.edit import INITIALIZERS_ARE_FREE, add_constants
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.names import free_name, node_name
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze
from onnxpfp.pipeline.plan import PlanEntry, PlannedClasses, make_plan
from onnxpfp.progress import Clock
from onnxpfp.rewrite import apply, call_again, restore
from onnxpfp.rewrite.apply import what_stays
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.providers import ProviderRequest

__all__ = ["KeptClasses", "keep_classes"]

ORACLE_RUNS = 2
ORACLE_BATCH = 4
CANDIDATES = 8
"""Most axes that a message lists."""


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
    chosen = _chosen(released, options, planned, names)
    count = chosen.axes[0].count
    if len(names) != count:
        names = ()
    dropped = sorted(set(range(count)) - set(chosen.kept))
    if not dropped:
        return source, None
    _require_free(released, chosen, dropped)
    keep = released.goes(chosen.axes, dropped)
    _require_nothing_else(released, chosen, dropped, keep)
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


def _chosen(
    released: ReleasedOutputs, options: Options, planned: PlannedClasses | None, names: Sequence[str]
) -> PlannedClasses:
    """Find the axes of classes, and which classes stay."""
    if planned is not None and options.keep_classes is None:
        _require_axes(released, planned.axes)
        return planned
    axes = _typed_axes(released, options.class_axes, len(names)) or _found_axes(released, options, names)
    counts = {axis.count for axis in axes}
    if len(counts) > 1:
        raise OptionError(
            f"--class-axis gives different numbers of classes: {_listed(axes)}", hint="give the number behind the axis"
        )
    asked = options.keep_classes
    assert asked is not None
    kept = classes_asked_for(asked, axes[0].count, names if len(names) == axes[0].count else ())
    chosen = PlannedClasses(kept, tuple(axes))
    if planned is not None and planned != chosen:
        raise OptionError("--keep-classes keeps other classes than the plan", hint="leave it out: the plan has them")
    return chosen


def _found_axes(released: ReleasedOutputs, options: Options, names: Sequence[str]) -> list[ClassAxis]:
    """Find the axes that count classes where nobody says which; nothing is guessed.

    Raises:
        OptionError: None is, or several could be.
    """
    axes = released.of_number(len(names)) if names else []
    given = options.class_names is not None
    if not axes and not given:
        axes = released.sure()
    if axes and len({axis.output for axis in axes}) == len(axes):
        return axes
    runs = axes or released.runs()
    if not runs:
        reasons = dict.fromkeys(filter(None, _reasons(released)))
        raise OptionError(f"--keep-classes: no class can go: {'; '.join([*reasons][:3])}")
    wanted = f"{len(names)} classes" if given else "the classes"
    raise OptionError(
        f"--keep-classes: the model does not tell which indices are {wanted}; these can go one by one: {_listed(runs)}",
        hint=f"say which, as in --class-axis {runs[-1].typed}"
        + ("" if given or names else ", or how many there are: --class-names FILE, one name per line"),
    )


def _reasons(released: ReleasedOutputs) -> Iterator[str]:
    """Yield why the outputs stay."""
    for info in released.model.graph.output:
        for axis, ids in enumerate(released.axes(info.name)):
            if ids.size > 1 and not ids[0]:
                yield released.why_not(info.name, axis, 0)
    yield released.why_nothing()


def _typed_axes(released: ReleasedOutputs, texts: Sequence[str], known: int) -> list[ClassAxis]:
    """Read the axes that the user gave: OUTPUT:AXIS[:FIRST[:COUNT]].

    Args:
        released: The outputs.
        texts: What was given.
        known: How many names of classes there are; 0 where they are not known.

    Raises:
        OptionError: There is no such axis.
    """
    outputs = [info.name for info in released.model.graph.output]
    axes: list[ClassAxis] = []
    for text in texts:
        # Names of outputs have colons, too.
        name = next((name for name in sorted(outputs, key=len, reverse=True) if text.startswith(f"{name}:")), None)
        if name is None:
            raise OptionError(f"--class-axis '{text}' names no output", hint=f"the outputs are {', '.join(outputs)}")
        numbers = text[len(name) + 1 :].split(":")
        sizes = [ids.size for ids in released.axes(name)]
        axis = int(numbers[0])
        if not -len(sizes) <= axis < len(sizes):
            raise OptionError(f"--class-axis {text}: the output '{name}' has shape {sizes}")
        length = sizes[axis]
        first = int(numbers[1]) if len(numbers) > 1 else length - known if 0 < known < length else 0
        count = int(numbers[2]) if len(numbers) > 2 else length - first
        if count < 2 or first + count > length:
            indices = "1 index" if length == 1 else f"{length} indices"
            raise OptionError(f"--class-axis {text}: axis {axis} of '{name}' has {indices}")
        axes.append(ClassAxis(name, axis % len(sizes), first, count, length))
    double = next((a.output for a in axes if sum(a.output == b.output for b in axes) > 1), None)
    if double is not None:
        raise OptionError(f"--class-axis gives '{double}' two axes", hint="give it one")
    return axes


def _require_axes(released: ReleasedOutputs, axes: Sequence[ClassAxis]) -> None:
    """Make sure that the outputs have the axes of a plan.

    Raises:
        OptionError: One has not.
    """
    for each in axes:
        sizes = [ids.size for ids in released.axes(each.output)]
        if each.axis >= len(sizes) or sizes[each.axis] != each.length:
            raise OptionError(f"the plan has classes on {each.title}, which the model does not have")


def _require_free(released: ReleasedOutputs, chosen: PlannedClasses, dropped: Sequence[int]) -> None:
    """Make sure that every class that is to go can.

    Raises:
        OptionError: One cannot.
    """
    for each in chosen.axes:
        for number in dropped:
            reason = released.why_not(each.output, each.axis, each.first + number)
            if reason:
                raise OptionError(
                    f"--keep-classes: class {number} cannot go: index {each.first + number} of axis {each.axis} of the "
                    f"output '{each.output}': {reason}"
                )


def _require_nothing_else(
    released: ReleasedOutputs, chosen: PlannedClasses, dropped: Sequence[int], keep: Keep
) -> None:
    """Make sure that no other index of an output goes with the classes.

    Raises:
        OptionError: One does.
    """
    meant = {(each.output, each.axis): each.first + np.array(dropped) for each in chosen.axes}
    for info in released.model.graph.output:
        for axis, ids in enumerate(released.axes(info.name)):
            gone = np.flatnonzero(~keep[ids])
            if not np.array_equal(gone, meant.get((info.name, axis), ())):
                raise OptionError(
                    f"--keep-classes: with the classes of {_listed(chosen.axes)} go {gone.size} indices of axis {axis} "
                    f"of the output '{info.name}'",
                    hint=f"if they are the same classes, give --class-axis {info.name}:{axis}, too",
                )


def _listed(axes: Sequence[ClassAxis]) -> str:
    more = f", and {len(axes) - CANDIDATES} more" if len(axes) > CANDIDATES else ""
    return "; ".join(axis.title for axis in axes[:CANDIDATES]) + more


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
