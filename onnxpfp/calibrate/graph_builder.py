"""A thin typed layer over onnx-graphsurgeon that appends nodes valid for the model's own opset.

The opset of the user's model is never raised (a conversion could change what it computes), so the ops whose axes
moved from an attribute to an input are written both ways here and nowhere else.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxpfp.errors import ModelError
from onnxpfp.model.edit import forget_shapes
from onnxpfp.model.opset import STANDARD, standard_opset
from onnxpfp.runtime.external_data import externalise, inline

__all__ = ["GraphBuilder", "Tensor", "default_opset"]

Tensor = Any
"""A tensor of graphsurgeon, which has no type stubs."""

_PREFIX = "onnxpfp_probe"
_REDUCE_MAX_INPUT = 18
_REDUCE_SUM_INPUT = 13
_UNSQUEEZE_INPUT = 13


def default_opset(model: ModelProto) -> int:
    """Return the version of the default operator set that the model imports."""
    version = standard_opset(model)
    if not version:
        raise ModelError(
            "the model imports no version of the default operator set",
            hint="export it again with an explicit opset",
        )
    return version


@contextlib.contextmanager
def _quiet(gs_logger: Any) -> Generator[None]:
    # Its logger writes to stdout, which would corrupt JSON that a caller prints there.
    before = gs_logger.severity
    gs_logger.severity = gs_logger.CRITICAL
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gs_logger.severity = before


class GraphBuilder:
    """The user's graph without its outputs, and methods that append to it.

    Attributes:
        opset: Version of the default operator set.
    """

    def __init__(self, model: ModelProto) -> None:
        self._gs: Any = importlib.import_module("onnx_graphsurgeon")
        self._logger: Any = importlib.import_module("onnx_graphsurgeon.logger").G_LOGGER
        self.opset = default_opset(model)
        bare, self._apart = externalise(model)
        # graphsurgeon shares tensors with what it imports, and its export renames them.
        copy = ModelProto()
        copy.CopyFrom(bare)
        with _quiet(self._logger):
            self._graph: Any = self._gs.import_onnx(copy)
        self._graph.opset = self.opset
        # graphsurgeon does not know that "ai.onnx" names the default domain, too.
        self._other_domains = [entry for entry in model.opset_import if entry.domain not in STANDARD]
        self._graph.outputs = []
        self._tensors: dict[str, Tensor] = self._graph.tensors()
        self._ints: dict[tuple[int, ...], Tensor] = {}
        self._rank = {tensor.name: rank for rank, node in enumerate(self._graph.nodes) for tensor in node.outputs}
        self._behind = [float(rank) for rank in range(len(self._graph.nodes))]
        self._place = 0.0
        self._count = 0

    @property
    def nodes(self) -> Sequence[Any]:
        """Nodes of the graph in topological order, those of the model first."""
        return self._graph.nodes

    def find(self, name: str) -> Tensor:
        """Return a tensor of the user's graph.

        Raises:
            ModelError: The main graph has no tensor of that name.
        """
        if name not in self._tensors:
            raise ModelError(f"the model has no tensor {name!r} to calibrate on")
        return self._tensors[name]

    def go_behind(self, names: Iterable[str]) -> None:
        """Place what is appended from now on directly behind the last node that brings forth one of these tensors.

        Where nodes run in their order, every intermediate is gone before the next layer begins.
        """
        self._place = max((self._rank.get(name, -1) for name in names), default=-1) + 0.5

    def export(self) -> ModelProto:
        """Drop what the new outputs do not need and return the probe model."""
        placed = zip(self._behind, self._graph.nodes, strict=True)
        self._graph.nodes = [node for _, node in sorted(placed, key=lambda pair: pair[0])]
        with _quiet(self._logger):
            self._graph.cleanup()
            untyped = [tensor for tensor in self._graph.outputs if tensor.dtype is None]
            for tensor in untyped:
                tensor.dtype = np.float32  # It exports no output without a type.
            probe: ModelProto = self._gs.export_onnx(self._graph)
        names = {str(tensor.name) for tensor in untyped}
        forget_shapes(probe.graph, names)
        for info in probe.graph.output:
            if info.name in names:
                info.ClearField("type")
        del probe.opset_import[:]
        probe.opset_import.add(domain="", version=self.opset)
        probe.opset_import.extend(self._other_domains)
        return inline(probe, self._apart)

    def output(self, tensor: Tensor) -> str:
        """Make a tensor an output, if it is none, and return its name."""
        if all(tensor is not output for output in self._graph.outputs):
            self._graph.outputs.append(tensor)
        return str(tensor.name)

    def made(self, tensor: Tensor) -> Tensor:
        """Return a tensor that a node makes: an input or a constant cannot be an output."""
        return tensor if tensor.inputs else self.op("Identity", [tensor])

    def constant(self, values: NDArray[Any]) -> Tensor:
        """Add a constant."""
        return self._gs.Constant(self._name("c"), np.ascontiguousarray(values))

    def op(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        attributes: Mapping[str, object] | None = None,
        dtype: type[np.generic] | None = np.float32,
    ) -> Tensor:
        """Append one node with one output and return that; `dtype` is the type of its numbers, None if unknown."""
        result = self._gs.Variable(self._name(kind.lower()), dtype=dtype)
        self._behind.append(self._place)
        self._graph.nodes.append(
            self._gs.Node(
                op=kind,
                name=self._name("n"),
                attrs=dict(attributes or {}),
                inputs=list(inputs),
                outputs=[result],
            )
        )
        return result

    def as_float(self, tensor: Tensor) -> Tensor:
        """Cast to float32 unless the tensor is known to be that."""
        if tensor.dtype is not None and tensor.dtype == np.float32:
            return tensor
        return self.op("Cast", [tensor], {"to": int(TensorProto.FLOAT)})

    def numbers(self, name: str, zero: str = "") -> Tensor:
        """Return a tensor of the user's graph as float32, minus its zero point."""
        tensor = self.as_float(self.find(name))
        return self.op("Sub", [tensor, self.as_float(self.find(zero))]) if zero else tensor

    def signs(self, tensor: Tensor, *, nonnegative: bool) -> list[Tensor]:
        """Split a tensor into its positive and negative parts; only the first where there is no other."""
        if nonnegative:
            return [tensor]
        return [self.op("Relu", [tensor]), self.op("Relu", [self.op("Neg", [tensor])])]

    def largest(self, tensor: Tensor, rank: int) -> Tensor:
        """Take the maximum over all axes and keep them."""
        return self.reduce_max(tensor, list(range(rank)), keep=True)

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """Reshape; 0 copies a dim, -1 takes the rest."""
        return self.op("Reshape", [tensor, self._int_constant(shape)], dtype=tensor.dtype)

    def transpose(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        """Permute axes; the identity adds nothing."""
        if list(order) == list(range(len(order))):
            return tensor
        return self.op("Transpose", [tensor], {"perm": list(order)}, tensor.dtype)

    def gather(self, tensor: Tensor, indices: NDArray[np.int64], size: int, axis: int) -> Tensor:
        """Pick indices of an axis of `size`; picking all of them in order adds nothing."""
        if len(indices) == size and np.array_equal(indices, np.arange(size)):
            return tensor
        return self.op("Gather", [tensor, self._int_constant(indices.tolist())], {"axis": axis}, tensor.dtype)

    def reduce_max(self, tensor: Tensor, axes: Sequence[int], *, keep: bool = False) -> Tensor:
        """Take the maximum over axes."""
        return self._reduce("ReduceMax", tensor, axes, keep, _REDUCE_MAX_INPUT)

    def reduce_sum(self, tensor: Tensor, axes: Sequence[int], *, keep: bool = False) -> Tensor:
        """Sum over axes."""
        return self._reduce("ReduceSum", tensor, axes, keep, _REDUCE_SUM_INPUT)

    def unsqueeze(self, tensor: Tensor, axis: int) -> Tensor:
        """Insert an axis of size one."""
        if self.opset >= _UNSQUEEZE_INPUT:
            return self.op("Unsqueeze", [tensor, self._int_constant([axis])])
        return self.op("Unsqueeze", [tensor], {"axes": [axis]})

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate along axis 0."""
        return tensors[0] if len(tensors) == 1 else self.op("Concat", tensors, {"axis": 0})

    def _reduce(self, kind: str, tensor: Tensor, axes: Sequence[int], keep: bool, since: int) -> Tensor:
        attributes: dict[str, object] = {"keepdims": int(keep)}
        if self.opset >= since:
            return self.op(kind, [tensor, self._int_constant(axes)], attributes)
        return self.op(kind, [tensor], {**attributes, "axes": list(axes)})

    def _int_constant(self, values: Sequence[int]) -> Tensor:
        key = tuple(values)
        if key not in self._ints:
            self._ints[key] = self.constant(np.array(key, dtype=np.int64))
        return self._ints[key]

    def _name(self, stem: str) -> str:
        self._count += 1
        name = f"{_PREFIX}/{stem}_{self._count}"
        return name if name not in self._tensors else self._name(stem)
