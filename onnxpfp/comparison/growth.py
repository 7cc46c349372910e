"""Why a pruned file is larger than the original."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto, TensorProto, helper

from onnxpfp.model.constants import stored_tensors
from onnxpfp.model.load import LoadedModel

__all__ = ["growth"]

SHOWN = 3
"""Most names in one line."""


def growth(source: LoadedModel, written: ModelProto) -> str:
    """Say what made a file larger: the largest of all that it stores and the original does not.

    Args:
        source: The original.
        written: The pruned model.
    """
    given, flat = source.rewritten_from or source.model, source.flat or source.model
    computed = {name for node in flat.graph.node if node.op_type != "Constant" for name in node.output}
    sparse = {tensor.values.name for tensor in given.graph.sparse_initializer}
    before = stored_tensors(flat.graph)
    after = stored_tensors(written.graph)
    new = {name: _size(tensor) for name, tensor in after.items() if name not in before}
    stored = {name: size for name, size in new.items() if name in computed}
    added = {name: size for name, size in new.items() if name not in computed}
    dense = {name: _size(tensor) for name, tensor in after.items() if name in sparse}
    bodies = max(flat.ByteSize() - given.ByteSize(), 0) if given.functions else 0
    causes = {
        f"weights that the graph computed are stored, for channels of them went: {_names(stored)}": sum(
            stored.values()
        ),
        f"biases and numbers that pruning added: {_names(added)}": sum(added.values()),
        f"sparse weights are stored as dense ones: {_names(dense)}": sum(dense.values()),
        "bodies of local functions stand in the place of their calls": bodies,
    }
    cause = max(causes, key=lambda text: causes[text])
    return cause if causes[cause] else "nodes that compute sizes were added"


def _size(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _names(sizes: Mapping[str, int]) -> str:
    names = sorted(sizes, key=lambda name: -sizes[name])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more} ({sum(sizes.values()):,} bytes)"
