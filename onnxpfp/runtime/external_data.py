"""Weights that stay in files.

A large weight is not loaded. Its tensor *refers* to a part of a file: the fields that ONNX has for external data hold
an absolute path, an offset, a length, and a stamp of the file as it was when the model was read. So copies of the
model are small, `numbers` maps what is read, and the system drops the pages of a mapping when it needs their memory.
Neither onnx nor onnxruntime sees such a reference: they get the model from `externalise`, which has those weights as
inputs, and what is written to disk has references of its own.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import chunks
from onnxpfp.errors import ModelError, OutputError
from onnxpfp.runtime.scratch import temporary_folder

__all__ = [
    "PAGE",
    "FileSlice",
    "WeightFile",
    "externalise",
    "inline",
    "is_reference",
    "load_into_memory",
    "mappable",
    "numbers",
    "pieces",
    "size_of",
    "stamp_of",
    "with_weights_in_memory",
]

PAGE = 4096
"""Bytes; parts of a file begin at multiples of it, so that every system can map them."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """The part of a file in which the numbers of a tensor lie.

    Attributes:
        path: The file, absolute.
        offset: Its first byte.
        length: How many bytes.
        stamp: What tells that the file is another one by now; empty for a file of our own, which grows.
    """

    path: Path
    offset: int
    length: int
    stamp: str = ""

    @classmethod
    def of(cls, tensor: TensorProto) -> FileSlice | None:
        """Return where the numbers of a tensor lie, or None where it holds them itself."""
        if tensor.data_location != TensorProto.EXTERNAL:
            return None
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        return cls(Path(entries["location"]), offset, length, entries.get("stamp", ""))

    def give_to(self, tensor: TensorProto) -> None:
        """Let a tensor refer to this part and hold nothing itself."""
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path), ("offset", self.offset), ("length", self.length)):
            tensor.external_data.add(key=key, value=str(value))
        if self.stamp:
            tensor.external_data.add(key="stamp", value=self.stamp)

    def mapped(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Map the part, read-only.

        Raises:
            ModelError: The file is gone, or is another one.
        """
        try:
            changed = self.stamp not in {"", stamp_of(self.path)}
            if not changed:
                return np.memmap(self.path, dtype, "r", self.offset, shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path}: cannot be read: {error}", hint="leave it where it is meanwhile") from error
        raise ModelError(f"{self.path}: was changed while a model that reads it was in use", hint="start again")


def stamp_of(path: Path) -> str:
    """Return what changes with a file."""
    status = path.stat()
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def is_reference(tensor: TensorProto) -> bool:
    """Tell whether the numbers of a tensor lie in a file."""
    return tensor.data_location == TensorProto.EXTERNAL


def mappable(element: int) -> bool:
    """Tell whether the numbers of an element type lie in a file as numpy and onnxruntime want them in memory."""
    return element == TensorProto.BFLOAT16 or helper.tensor_dtype_to_np_dtype(element).isbuiltin == 1


def numbers(tensor: TensorProto) -> NDArray[Any]:
    """Return the numbers of a tensor: mapped where they lie in a file.

    Raises:
        ModelError: That file is gone, or is another one.
    """
    part = FileSlice.of(tensor)
    if part is None:
        return numpy_helper.to_array(tensor)
    return part.mapped(helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims))


def pieces(tensor: TensorProto) -> Iterator[memoryview]:
    """Yield the bytes of a tensor that refers to a file or holds raw data, a piece at a time."""
    part = FileSlice.of(tensor)
    if part is None:
        yield memoryview(tensor.raw_data)
        return
    # No system maps nothing.
    whole = part.mapped(np.dtype(np.uint8), (part.length,)) if part.length else np.zeros(0, np.uint8)
    for run in chunks(part.length, 1):
        yield whole[run].data


def load_into_memory(tensor: TensorProto) -> None:
    """Load the numbers of a tensor that refers to a file."""
    raw = b"".join(pieces(tensor))
    tensor.ClearField("data_location")
    del tensor.external_data[:]
    tensor.raw_data = raw


def externalise(model: ModelProto) -> tuple[ModelProto, Mapping[str, TensorProto]]:
    """Make weights that lie in files inputs of the model, for those who take no references.

    Returns:
        The model (the same one where it refers to nothing), and the weights by name.
    """
    apart = {tensor.name: tensor for tensor in model.graph.initializer if is_reference(tensor)}
    if not apart:
        return model, apart
    bare = ModelProto()
    bare.CopyFrom(model)
    held = [tensor for tensor in bare.graph.initializer if tensor.name not in apart]
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(held)
    listed = {info.name for info in bare.graph.input}
    bare.graph.input.extend(
        helper.make_tensor_value_info(name, tensor.data_type, tuple(tensor.dims))
        for name, tensor in apart.items()
        if name not in listed
    )
    return bare, apart


def inline(model: ModelProto, weights: Mapping[str, TensorProto]) -> ModelProto:
    """Undo `externalise`, in place.

    Returns:
        The model.
    """
    inputs = [info for info in model.graph.input if info.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(weights.values())
    return model


def with_weights_in_memory(model: ModelProto) -> ModelProto:
    """Return a model that holds all its weights itself: the same one where it does so already."""
    if not any(is_reference(tensor) for tensor in model.graph.initializer):
        return model
    full = ModelProto()
    full.CopyFrom(model)
    for tensor in full.graph.initializer:
        if is_reference(tensor):
            load_into_memory(tensor)
    return full


def size_of(model: ModelProto) -> int:
    """Return the bytes of a model with all its weights."""
    parts = (FileSlice.of(tensor) for tensor in model.graph.initializer)
    return model.ByteSize() + sum(part.length for part in parts if part is not None)


class WeightFile:
    """A file for the new numbers of weights that lie in files; it vanishes with the last who uses it.

    Nothing is made before something is put into it.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Choose the folder that it will lie in; None is the system's temporary one."""
        self._parent = parent
        self._path: Path | None = None

    def put(self, tensor: TensorProto, shape: tuple[int, ...], arrays: Iterable[NDArray[Any]]) -> None:
        """Write new numbers of a tensor, an array after the other, and let it refer to them.

        Args:
            tensor: Gets the numbers; its element type stays.
            shape: Its new shape.
            arrays: Runs of its first axis, of its dtype.

        Raises:
            OutputError: They cannot be written.
        """
        try:
            path = self._path or self._make()
            with path.open("ab") as file:
                file.write(bytes(-file.tell() % PAGE))
                offset = file.tell()
                for array in arrays:
                    file.write(np.ascontiguousarray(array).view(np.uint8).data)
                length = file.tell() - offset
        except OSError as error:
            raise OutputError(
                f"{self._parent or tempfile.gettempdir()}: new weights cannot be put there: {error.strerror or error}",
                hint="weights of this size need as much disk again, beside the result or in TMPDIR",
            ) from error
        del tensor.dims[:]
        tensor.dims.extend(shape)
        FileSlice(path, offset, length).give_to(tensor)

    def _make(self) -> Path:
        folder = temporary_folder(self._parent)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = folder / "weights"
        return self._path
