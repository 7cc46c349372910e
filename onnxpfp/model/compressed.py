"""How many bytes a model takes once it is compressed: what zeros save, for a file stores them like any number."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from onnx import ModelProto

from onnxpfp.model.constants import all_graphs
from onnxpfp.runtime.external_data import is_reference, pieces

__all__ = ["LEVEL", "compressed_bytes", "compressed_model_bytes"]

LEVEL = 6
"""Of zlib; its own default."""


def compressed_bytes(parts: Iterable[bytes | memoryview]) -> int:
    """Return the bytes that parts of a file take together, compressed by zlib."""
    stream = zlib.compressobj(LEVEL)
    return sum(len(stream.compress(part)) for part in parts) + len(stream.flush())


def compressed_model_bytes(model: ModelProto) -> int:
    """Return the bytes of a model, compressed by zlib; weights in other files are counted behind it."""
    apart = [tensor for graph in all_graphs(model) for tensor in graph.initializer if is_reference(tensor)]
    return compressed_bytes((model.SerializeToString(), *(part for tensor in apart for part in pieces(tensor))))
