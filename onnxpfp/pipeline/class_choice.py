"""Which indices of the outputs are classes, and which stay: what the user or a plan says, or the model tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxpfp.arrays import Keep
from onnxpfp.channels.class_axes import BOX, ClassAxis, ReleasedOutputs
from onnxpfp.counted import counted
from onnxpfp.data.class_names import classes_asked_for
from onnxpfp.errors import OptionError
from onnxpfp.options import Options
from onnxpfp.options.classes import class_axis_numbers
from onnxpfp.pipeline.plan import PlannedClasses

__all__ = ["chosen_classes", "require_free", "require_nothing_else"]

_EVERY = "the last number is how many numbers one anchor has: --class-axis OUTPUT:AXIS:5:80:85 for 3 x 85 = 255"
CANDIDATES = 8
"""Most axes that a message lists."""


def chosen_classes(
    released: ReleasedOutputs, options: Options, planned: PlannedClasses | None, names: Sequence[str]
) -> PlannedClasses:
    """Find the axes of classes, and which classes stay.

    Args:
        released: The outputs.
        options: What was asked for.
        planned: What a plan says of them; None where there is none.
        names: Names of all classes, as far as they are known.

    Raises:
        OptionError: It is not known which indices the classes are, or there are no such classes.
    """
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
    wanted = counted(len(names), "class", "classes") if given else "the classes"
    raise OptionError(
        f"--keep-classes: the model does not tell which indices are {wanted}; these can go one by one: {_listed(runs)}",
        hint=_how_to_tell(released, runs, len(names)),
    )


def _how_to_tell(released: ReleasedOutputs, runs: Sequence[ClassAxis], known: int) -> str:
    """Say which flags say which indices are the classes.

    Args:
        released: The outputs.
        runs: What the classes could be.
        known: How many names of classes there are; 0 where they are not known.
    """
    anchors = released.anchors(known) if known else []
    likely = anchors or [*{run.output: run for run in runs}.values()]
    flags = " ".join(f"--class-axis {axis.typed}" for axis in likely[:CANDIDATES])
    if anchors:
        return f"if they stand behind {BOX} numbers of a box and its objectness, once for every anchor: {flags}"
    told = f"say which, as in {flags}"
    if known:
        return told
    if any(run.count == run.length for run in likely):
        told += ", with the numbers of one anchor at the end where several lie behind one another (3 x 85: :5:80:85)"
    return f"{told}, or how many there are: --class-names FILE, one name per line"


def _reasons(released: ReleasedOutputs) -> Iterator[str]:
    """Yield why the outputs stay."""
    for info in released.model.graph.output:
        for axis, ids in enumerate(released.axes(info.name)):
            if ids.size > 1 and not ids[0]:
                yield released.why_not(info.name, axis, 0, [0])
    yield released.why_nothing()


def _typed_axes(released: ReleasedOutputs, texts: Sequence[str], known: int) -> list[ClassAxis]:
    """Read the axes that the user gave: OUTPUT:AXIS[:FIRST[:COUNT[:EVERY]]].

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
        sizes = [ids.size for ids in released.axes(name)]
        axis, *numbers = class_axis_numbers(text, name)
        if not -len(sizes) <= axis < len(sizes):
            raise OptionError(f"--class-axis {text}: the output '{name}' has shape {sizes}")
        axes.append(_typed_axis(released, text, name, axis % len(sizes), numbers, known))
    double = next((a.output for a in axes if sum(a.output == b.output for b in axes) > 1), None)
    if double is not None:
        raise OptionError(f"--class-axis gives '{double}' two axes", hint="give it one")
    return axes


def _typed_axis(
    released: ReleasedOutputs, text: str, output: str, axis: int, numbers: Sequence[int], known: int
) -> ClassAxis:
    """Read which indices of an axis the classes are.

    Args:
        released: The outputs.
        text: What was given, as messages show it.
        output: The output that it names.
        axis: The axis, counted from 0.
        numbers: What stands behind these: first index, number of classes, and indices of a block.
        known: How many names of classes there are; 0 where they are not known.

    Raises:
        OptionError: The axis has no such indices.
    """
    length = released.axes(output)[axis].size
    every = numbers[2] if len(numbers) > 2 else length // released.blocks(output, axis)
    where = f"--class-axis {text}: axis {axis} of '{output}' has {counted(length, 'index', 'indices')}"
    if every < 1 or length % every:
        raise OptionError(f"{where}, which are no blocks of {every}", hint=_EVERY)
    first = numbers[0] if numbers else every - known if 0 < known < every else 0
    count = numbers[1] if len(numbers) > 1 else every - first
    if count < 2 or first + count > every:
        raise OptionError(where if every == length else f"{where}, in blocks of {every}")
    return ClassAxis(output, axis, first, count, length, length // every)


def _require_axes(released: ReleasedOutputs, axes: Sequence[ClassAxis]) -> None:
    """Make sure that the outputs have the axes of a plan.

    Raises:
        OptionError: One has not.
    """
    for each in axes:
        sizes = [ids.size for ids in released.axes(each.output)]
        if each.axis >= len(sizes) or sizes[each.axis] != each.length:
            raise OptionError(f"the plan has classes on {each.title}, which the model does not have")


def require_free(released: ReleasedOutputs, chosen: PlannedClasses, dropped: Sequence[int]) -> None:
    """Make sure that every class that is to go can.

    Raises:
        OptionError: One cannot.
    """
    for each in chosen.axes:
        for number in dropped:
            indices = each.of([number]).tolist()
            reasons = ((index, released.why_not(each.output, each.axis, index, indices)) for index in indices)
            index, reason = next(((index, reason) for index, reason in reasons if reason), (0, ""))
            if reason:
                raise OptionError(
                    f"--keep-classes: class {number} cannot go: index {index} of axis {each.axis} of the "
                    f"output '{each.output}': {reason}"
                )


def require_nothing_else(released: ReleasedOutputs, chosen: PlannedClasses, dropped: Sequence[int], keep: Keep) -> None:
    """Make sure that no other index of an output goes with the classes.

    Raises:
        OptionError: One does.
    """
    meant = {(each.output, each.axis): each.of(dropped) for each in chosen.axes}
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
