"""Fold constant and duplicate channels into the consumers' weights and biases, before they are removed or emptied."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyArray, Ids
from onnxpfp.channels import Analysis
from onnxpfp.errors import VerificationError
from onnxpfp.linear.bias import BiasEditor
from onnxpfp.linear.layout import column
from onnxpfp.linear.ops import LinearOp, output_counts
from onnxpfp.linear.weights import StoredAxis
from onnxpfp.lossless.subnormal import subnormal_weights
from onnxpfp.lossless.types import Lossless, Merge
from onnxpfp.model.constants import Constants
from onnxpfp.model.subnormal import is_subnormal, without_new_subnormal
from onnxpfp.rewrite.edits import Edits

__all__ = ["edits_of", "folds_of"]


def folds_of(analysis: Analysis, ops: Sequence[LinearOp]) -> NDArray[np.bool_]:
    """Tell for every consumer whether a constant channel can be folded into its bias exactly.

    Its bias must be one of floating-point numbers, and no window may reach over a border of zeros.
    """
    folds = np.zeros(len(ops), np.bool_)
    editor = BiasEditor.of(analysis, Edits())
    for position, (consumer, op) in enumerate(zip(analysis.graph.consumers, ops, strict=True)):
        if op.weight is None or any(consumer.zeros) or not _sees_no_border(op):
            continue
        trial = replace(editor, tensors=ChainMap({}), inputs={}, left=[], folded=[])
        trial.fold(consumer, np.zeros(output_counts(op)[0]))
        changed = [*trial.edits.tensors.values(), *(new.array for new in trial.edits.inputs.values())]
        folds[position] = not trial.left and all(array.dtype.kind != "i" for array in changed)
    return folds


def _sees_no_border(op: LinearOp) -> bool:
    """Tell whether every output is a sum over all taps, so that no window reaches over a border of zeros."""
    window = op.attributes
    if op.kind == "matmul":
        return True
    if op.kind == "conv_transpose":
        return op.kernel_size == 1 and window.is_identity
    if window.auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
        return op.kernel_size == 1
    return window.auto_pad == "VALID" or not any(window.pads or ())


def edits_of(
    analysis: Analysis,
    ops: Sequence[LinearOp],
    lossless: Lossless,
    stored_axes: Sequence[StoredAxis | None],
    edits: Edits,
) -> Edits:
    """Make the edits of weights and biases by which the consumers take over channels that cost nothing.

    Args:
        analysis: The model.
        ops: Its consumers as linear ops.
        lossless: These channels.
        stored_axes: Where each consumer's weights are stored.
        edits: Edits made before, which are kept.
    """
    tasks: dict[str, list[_Task]] = {}
    for position in sorted(lossless.merges.keys() | lossless.emptied.keys()):
        stored_axis = stored_axes[position]
        assert stored_axis is not None
        merges, emptied = lossless.merges.get(position, ()), lossless.emptied.get(position, ())
        task = _Task(stored_axis.axis, ops[position], merges, emptied)
        # Consumers that share a weight have the same tasks: it is edited once.
        if stored_axis.axis not in (known.axis for known in tasks.get(stored_axis.tensor, ())):
            tasks.setdefault(stored_axis.tensor, []).append(task)
    merged = _Merged(analysis.constants, edits.tensors, tasks, _slow_indices(analysis, lossless.quieted))
    editor = BiasEditor.of(analysis, Edits(merged, edits.inputs))
    for position, shift in lossless.shifts.items():
        editor.fold(analysis.graph.consumers[position], shift)
    assert not editor.left, editor.left
    return editor.edits


def _slow_indices(analysis: Analysis, channels: Collection[int]) -> dict[str, list[tuple[int, Ids]]]:
    """Find by stored tensor the indices of channels on its axes, where it has subnormal numbers."""
    found: dict[str, list[tuple[int, Ids]]] = {}
    for name in subnormal_weights(analysis) if channels else ():
        for axis, ids in enumerate(analysis.graph.axes[name]):
            indices = np.flatnonzero(np.isin(ids, [*channels]))
            if indices.size:
                found.setdefault(name, []).append((axis, indices))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Merges along one axis of a stored tensor, and the indices that become zero after them."""

    axis: int
    op: LinearOp
    merges: tuple[Merge, ...]
    emptied: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Merged(Mapping[str, AnyArray]):
    """Stored weights with merged columns, computed when they are asked for.

    Attributes:
        constants: The model's constants.
        before: Edits made before.
        tasks: What to merge, by stored tensor.
        slow: Indices of axes, by stored tensor, at which subnormal numbers become zero.
    """

    constants: Constants
    before: Mapping[str, AnyArray]
    tasks: Mapping[str, list[_Task]]
    slow: Mapping[str, list[tuple[int, Ids]]]

    def __getitem__(self, name: str) -> AnyArray:
        if name not in self.tasks and name not in self.slow:
            return self.before[name]
        array = self.before[name] if name in self.before else self.constants.value(name)
        for task in self.tasks.get(name, ()):
            array = _merge(array, task, name)
        return _without_subnormal(array, self.slow.get(name, ()))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.before, *self.tasks, *self.slow]))

    def __len__(self) -> int:
        return len(self.before.keys() | self.tasks.keys() | self.slow.keys())


def _without_subnormal(array: AnyArray, slow: Sequence[tuple[int, Ids]]) -> AnyArray:
    """Write zeros in the place of subnormal numbers at some indices of axes."""
    if not slow:
        return array
    new = array.copy()
    for axis, indices in slow:
        for index in indices.tolist():
            # A view, so that the tensor itself is written to.
            part = np.moveaxis(new, axis, 0)[index : index + 1]
            part[is_subnormal(part)] = 0
    return new


def _merge(array: AnyArray, task: _Task, name: str) -> AnyArray:
    """Add to every kept index of a weight the multiples of those taken over: W[:, k] += alpha W[:, j].

    Raises:
        VerificationError: The sum does not fit the weight's type.
    """
    new, group = array.copy(), task.op.group if task.op.kind == "conv" else 1
    sources: dict[int, list[tuple[int, float]]] = {}
    for dropped, kept, factor in task.merges:
        sources.setdefault(kept, []).append((dropped, factor))
    for kept, added in sources.items():
        total = column(array, task.axis, kept, group).astype(np.float64)
        for dropped, factor in added:
            total += factor * column(array, task.axis, dropped, group).astype(np.float64)
        fitting = without_new_subnormal(total, column(array, task.axis, kept, group))
        if not np.isfinite(fitting.astype(np.float64)).all():
            raise VerificationError(
                f"the weight '{name}' overflows {array.dtype} where it takes over duplicate channels",
                hint="convert the model to float32 first",
            )
        column(new, task.axis, kept, group)[...] = fitting
    for index in task.emptied:
        column(new, task.axis, index, group)[...] = 0
    return new
