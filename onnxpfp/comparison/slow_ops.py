"""Ops that do not take less time in a pruned model, and why, as far as onnxruntime's profile shows it.

Its profile names the kernels that are left after all fusions, so a kernel is told by the op that it computes: the node
whose name it bears, or the first one of its kind before the tensor whose name it bears. Only what was seen is named as
a cause:

1. the op ran on another provider than the original's;
2. its weights have subnormal numbers, and without them it takes less;
3. the kernel's weight has more channels than the op's: it computes whole blocks;
4. the original's ran in the blocked layout of onnxruntime and it does not;
5. it only changes the layout between such kernels;
6. it has no multiply-adds, so theirs promise nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxpfp.channels.macs import multiplies
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.index import ModelIndex
from onnxpfp.model.names import node_name
from onnxpfp.runtime.external_data import is_reference, numbers
from onnxpfp.runtime.profile import KernelTime
from onnxpfp.runtime.providers import CPU

__all__ = ["OpTimes", "SlowCause", "SlowOp", "block_of", "slow_ops"]

BLOCKED = "_nchwc"
"""End of the names of kernels in the layout that has channels in blocks."""
LAYOUT_OPS = frozenset({"ReorderInput", "ReorderOutput"})
CARRIERS = frozenset({"If", "Loop", "Scan"})
"""Their time is that of the kernels in their bodies, which are listed themselves."""
WORTH = 0.01
"""Share of a run that an op must lose against what was promised to be listed."""
FALLS = 0.8
"""Share of an op's time that is left at most without subnormal numbers, if these are the cause."""
STEPS = 8
"""How far a fused kernel may reach back from the tensor that it bears the name of."""
_MADE_OF = re.compile(r"_token_\d+$|/\w+Fusion/$")
"""What onnxruntime puts behind the name of a node that it copies or fuses with others."""

SlowCause = str
"""Why an op takes as long; empty where nothing was seen."""


@dataclass(frozen=True, slots=True)
class SlowOp:
    """An op that does not take less time, as the multiply-adds of the whole network would have it.

    Attributes:
        name: The node's name; that of a kind of kernels for changes of layout.
        op: Its op type.
        before_ms: Its time in a run of the original, in milliseconds; 0 where that has none.
        after_ms: Its time in a run of the pruned model.
        cause: Why, as far as it was seen; else empty.
    """

    name: str
    op: str
    before_ms: float
    after_ms: float
    cause: SlowCause


@dataclass(slots=True, eq=False)
class OpTimes:
    """The times of a model's ops.

    Attributes:
        model: The model.
        ms: Milliseconds of a run, by what the op is called.
        kernels: Its kernels.
        nodes: Its node, where it is one of the main graph.
        stored: Stored tensors of the main graph by name.
    """

    model: ModelProto
    ms: dict[str, float] = field(default_factory=dict[str, float])
    kernels: dict[str, list[KernelTime]] = field(default_factory=dict[str, list[KernelTime]])
    nodes: dict[str, NodeProto] = field(default_factory=dict[str, NodeProto])
    stored: dict[str, TensorProto] = field(default_factory=dict[str, TensorProto])

    @classmethod
    def of(cls, model: ModelProto, kernels: Sequence[KernelTime]) -> Self:
        """Tell which op each kernel computes."""
        times, index = cls(model, stored=stored_tensors(model.graph)), ModelIndex.of(model)
        named = {node.name: node for node in model.graph.node if node.name}
        for kernel in kernels:
            if kernel.op in CARRIERS:
                continue
            node = _node_of(kernel, index, named)
            name = _unresolved(kernel) if node is None else node_name(node)
            times.ms[name] = times.ms.get(name, 0.0) + kernel.ms
            times.kernels.setdefault(name, []).append(kernel)
            if node is not None:
                times.nodes[name] = node
        return times

    def blocked(self, name: str) -> bool:
        """Tell whether an op runs in the layout that has channels in blocks."""
        return any(kernel.name.endswith(BLOCKED) for kernel in self.kernels[name])

    @property
    def accelerated(self) -> bool:
        """Whether something runs elsewhere than on the CPU, where a kernel's time is not that of its call."""
        return any(kernel.provider != CPU for some in self.kernels.values() for kernel in some)


def _node_of(kernel: KernelTime, index: ModelIndex, named: Mapping[str, NodeProto]) -> NodeProto | None:
    """Return the node that a kernel computes; None where it is none of the main graph."""
    bare = _MADE_OF.sub("", kernel.name)
    if bare in named:
        return named[bare]
    op, waiting = kernel.op.removeprefix("Fused"), [(bare.removesuffix(BLOCKED), 0)]
    while waiting:
        tensor, steps = waiting.pop(0)
        node = index.producer(tensor)
        if node is not None and node.op_type == op:
            return node
        if node is not None and steps < STEPS:
            waiting += ((name, steps + 1) for name in node.input)
    return None


def _unresolved(kernel: KernelTime) -> str:
    """Return what a kernel is called that computes no node of its own: its kind where its name is made up."""
    return kernel.op if kernel.name.startswith(kernel.op) else kernel.name


def slow_ops(
    original: OpTimes,
    pruned: OpTimes,
    promise: float,
    measure: Callable[[ModelProto, ModelProto], tuple[OpTimes, OpTimes] | None],
) -> tuple[SlowOp, ...]:
    """List the ops whose time did not fall, those that cost most first.

    Args:
        original: The times of the original.
        pruned: Those of the pruned model.
        promise: Share of its time that an op should take at most.
        measure: Measures models in turns, or returns None where there is no time left; called with the pruned one and a
            copy without subnormal weights, if it has any.
    """
    if original.accelerated or pruned.accelerated:
        return tuple(_moved(original, pruned))
    lost = {name: ms - promise * original.ms.get(name, 0.0) for name, ms in pruned.ms.items()}
    least = WORTH * sum(pruned.ms.values())
    names = sorted((name for name in lost if lost[name] > least), key=lambda name: -lost[name])
    held = not any(is_reference(tensor) for tensor in pruned.model.graph.initializer)
    subnormal = {name: count for name in names if held and (count := _subnormals(pruned, name))}
    turns = measure(pruned.model, _flushed(pruned, subnormal)) if subnormal else None
    listed: list[SlowOp] = []
    for name in names:
        cause = _cause(original, pruned, name)
        if name in subnormal:
            cause = _blamed(turns, name, subnormal[name]) or cause
        listed.append(_slow_op(original, pruned, name, cause))
    return tuple(listed)


def _blamed(turns: tuple[OpTimes, OpTimes] | None, name: str, count: int) -> SlowCause:
    """Say whether subnormal weights cost time; nothing where they do not."""
    numerals = f"{count:,} of its weights are subnormal numbers"
    if turns is None:
        return f"{numerals}; there was no time to measure what they cost"
    before, after = (times.ms.get(name, math.inf) for times in turns)
    return f"{numerals}; with zeros in their places it takes {after:.3g} ms" if after <= FALLS * before else ""


def _slow_op(original: OpTimes, pruned: OpTimes, name: str, cause: SlowCause) -> SlowOp:
    node = pruned.nodes.get(name)
    op = pruned.kernels[name][0].op if node is None else node.op_type
    return SlowOp(name, op, original.ms.get(name, 0.0), pruned.ms[name], cause)


def _moved(original: OpTimes, pruned: OpTimes) -> Iterator[SlowOp]:
    """List what runs on the CPU and did not before; other times mean nothing where calls only queue work."""
    for name, kernels in pruned.kernels.items():
        before = {kernel.provider for kernel in original.kernels.get(name, ())}
        if before and CPU not in before and any(kernel.provider == CPU for kernel in kernels):
            yield _slow_op(original, pruned, name, f"it runs on the CPU, the original's on {min(before)}")


def _cause(original: OpTimes, pruned: OpTimes, name: str) -> SlowCause:
    """Say why an op takes as long, as far as the kernels show it."""
    node, (kernel, *_) = pruned.nodes.get(name), pruned.kernels[name]
    if kernel.op in LAYOUT_OPS:
        return "a change of layout between kernels that have channels in blocks and others"
    if node is None:
        return ""
    channels = _channels(pruned, node)
    if name in original.kernels and original.blocked(name) and not pruned.blocked(name):
        return f"with {channels} it leaves the layout in blocks, in which the original's runs" if channels else ""
    computed = _computed(kernel, pruned, node)
    if computed:
        return f"the kernel computes {computed[1]} channels for its {computed[0]}"
    return "" if multiplies(node) else "it has no multiply-adds"


def _weight(times: OpTimes, node: NodeProto) -> TensorProto | None:
    """Return the stored weight of a convolution."""
    return times.stored.get(node.input[1]) if node.op_type == "Conv" else None


def _channels(times: OpTimes, node: NodeProto) -> str:
    weight = _weight(times, node)
    if weight is None:
        return ""
    return f"{weight.dims[1] * Attributes(node).integer('group', 1)} channels in and {weight.dims[0]} out"


def _computed(kernel: KernelTime, times: OpTimes, node: NodeProto) -> tuple[int, int] | None:
    """Return the channels of a convolution and those that its kernel computes, where these are more."""
    weight = _weight(times, node)
    if weight is None or len(kernel.shapes) < 2 or not kernel.name.endswith(BLOCKED):
        return None
    own, computed = weight.dims[0], kernel.shapes[1][0]
    return (own, computed) if computed > own else None


def block_of(*models: OpTimes) -> int:
    """Return the multiple of channels in which kernels compute, as their weights show; 1 where none has blocks."""
    kernels = [kernel for times in models for some in times.kernels.values() for kernel in some]
    blocked = (k for k in kernels if k.name.endswith(BLOCKED) and k.op.endswith("Conv") and len(k.shapes) > 1)
    return min(math.gcd(*{kernel.shapes[1][0] for kernel in blocked}) or 1, 16)


def _subnormals(times: OpTimes, name: str) -> int:
    """Count the subnormal numbers among the weights that a node reads."""
    node = times.nodes.get(name)
    inputs = set(node.input) if node is not None else set[str]()
    weights = (tensor for name, tensor in times.stored.items() if name in inputs)
    return sum(int(np.count_nonzero(_subnormal(tensor))) for tensor in weights if _is_plain_float(tensor))


def _is_plain_float(tensor: TensorProto) -> bool:
    return tensor.data_type in {TensorProto.FLOAT, TensorProto.DOUBLE}


def _subnormal(tensor: TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    values = numbers(tensor)
    return (values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)


def _flushed(times: OpTimes, names: Mapping[str, int]) -> ModelProto:
    """Copy a model, with zeros in the place of subnormal numbers in the weights of some nodes."""
    read = {name for each in names for name in times.nodes[each].input}
    copy = ModelProto()
    copy.CopyFrom(times.model)
    for name, tensor in stored_tensors(copy.graph).items():
        if name in read and _is_plain_float(tensor):
            values = np.where(_subnormal(tensor), 0, numbers(tensor)).astype(numbers(tensor).dtype)
            for values_field in ("float_data", "double_data"):
                tensor.ClearField(values_field)
            tensor.raw_data = values.tobytes()
    return copy
