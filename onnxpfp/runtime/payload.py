"""What onnxruntime loads: the bytes of a small model, or a file of a large one, written weight by weight."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto

from onnxpfp.errors import ModelError
from onnxpfp.runtime.scratch import temporary_folder

__all__ = ["SessionSource", "at_hand"]

SessionSource = ModelProto | bytes | str | os.PathLike[str] | Callable[[], ModelProto]
"""A model in memory, what makes one that nobody else holds, its bytes, or its path; above 2 GB only a path works."""

_LARGE = 16 << 20
"""Bytes of the weights of a model in memory from which on it is worth to give back what loading it took."""
_MESSAGE = (1 << 31) - 1
"""Most bytes of a message of protobuf."""


def _payload(model: SessionSource) -> str | bytes:
    if isinstance(model, bytes):
        return model
    assert not callable(model)
    if isinstance(model, ModelProto):
        try:
            return model.SerializeToString()
        except Exception as error:
            raise ModelError(
                "the model is larger than 2 GB and cannot be handed over in memory",
                hint="save it with external data and give its path",
            ) from error
    if not Path(model).is_file():
        raise ModelError(f"{os.fspath(model)} does not exist", hint="check the path")
    return os.fspath(model)


@contextlib.contextmanager
def at_hand(model: SessionSource) -> Generator[tuple[str | bytes, bool]]:
    """Yield what onnxruntime loads, and whether that is large: then it lies in a file, and nothing here holds it."""
    if not isinstance(model, ModelProto) or not _LARGE < _weight_bytes(model) <= _MESSAGE:
        payload = _payload(model)
        del model
        yield payload, False
        return
    folder = temporary_folder()
    try:
        path = folder / "network.onnx"
        with path.open("wb") as file:
            file.writelines(_parts(model))
        del model
        yield os.fspath(path), True
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _weight_bytes(model: ModelProto) -> int:
    """Return the bytes of all weights, one by one: protobuf writes a message to find its size."""
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def _parts(model: ModelProto) -> Iterator[bytes]:
    """Yield the bytes of a model weight by weight: all at once they would take as much as it does.

    Messages of protobuf that follow each other are one: lists are joined, and so are the lists of a graph.
    """
    rest = ModelProto()
    for entry, value in model.ListFields():
        if entry.name != "graph":
            _take_over(rest, entry.name, value)
    for entry, value in model.graph.ListFields():
        if entry.name != "initializer":
            _take_over(rest.graph, entry.name, value)
    yield rest.SerializeToString()
    for tensor in model.graph.initializer:
        yield ModelProto(graph=GraphProto(initializer=[tensor])).SerializeToString()


def _take_over(message: Any, name: str, value: Any) -> None:
    """Copy a field, given its value."""
    if isinstance(value, str | int | float | bytes):
        setattr(message, name, value)
    else:
        getattr(message, name).MergeFrom(value)
