"""Read a model and say in one line what is wrong with it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnxpfp.errors import ModelError, one_line
from onnxpfp.model.constants import all_graphs
from onnxpfp.model.functions import without_functions
from onnxpfp.model.folding import fold_weights

__all__ = ["Source", "external_files", "load", "one_line"]

_MAGIC = {
    b"PK\x03\x04": "a zip archive (as PyTorch checkpoints are)",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a PNG image",
    b"\x89HDF": "an HDF5 file (as Keras checkpoints are)",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model as it was given.

    Attributes:
        model: The model, weights in memory, those computed from others folded. It is never changed.
        data: The bytes of the file, or of the model where it was given as an object.
        path: The file, or None.
        external: Whether weights lie in other files.
        size_bytes: Size of the file with all its weights.
    """

    model: ModelProto
    data: bytes
    path: Path | None
    external: bool
    size_bytes: int

    @property
    def sha256(self) -> str:
        """Checksum of `data`, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def title(self) -> str:
        """The file's name, as messages quote it."""
        return str(self.path) if self.path else "the model"


def load(given: ModelProto | str | os.PathLike[str]) -> Source:
    """Load and check a model.

    Args:
        given: A path or a model object.

    Raises:
        ModelError: It is not a model, or one that is broken.
    """
    if isinstance(given, ModelProto):
        data = given.SerializeToString(deterministic=True)
        source = Source(without_functions(given), data, None, False, len(data))
    else:
        source = _read(Path(given))
    _check(source)
    return replace(source, model=fold_weights(source.model))


def _recognise(data: bytes) -> tuple[str, str] | None:
    """Say what a file is that is often met in the place of a model, and what to do."""
    if not data:
        return "an empty file", "export it again, or copy it again"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS", "fetch the file itself: git lfs pull"
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            return what, "give the .onnx file"
    return None


def _read(path: Path) -> Source:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    known = _recognise(data)
    if known is not None:
        raise ModelError(f"{path}: is not an ONNX model: it is {known[0]}", hint=known[1])
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        # Every exporter writes the IR version first: field 1, a varint.
        what = f"is cut off after {len(data)} bytes, or damaged" if data[0] == 8 else "is not an ONNX model"
        raise ModelError(f"{path}: {what}: {one_line(error)}", hint="export it again, or copy it again") from error
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise ModelError(
            f"{path}: is not an ONNX model, or it is cut off: it names no IR version, opset or graph",
            hint="export it again, or copy it again",
        )
    external = sum(_load_external(path, model))
    return Source(without_functions(model), data, path, bool(external), len(data) + external)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in all_graphs(model):
        yield from graph.initializer
        for node in graph.node:
            yield from (a.t for a in node.attribute if a.HasField("t"))


def external_files(path: Path) -> set[Path]:
    """List the files beside a model in which its weights lie; none for what is no model."""
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError):
        return set()
    found: set[Path] = set()
    for tensor in _tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if uses_external_data(tensor):
            found.add(path.parent / entries.get("location", ""))
    return found


def _load_external(path: Path, model: ModelProto) -> Iterator[int]:
    """Read weights that lie in other files; yield each file's size."""
    files: dict[Path, int] = {}
    for tensor in _tensors(model):
        if not uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = path.parent / entries.get("location", "")
        if not file.is_file():
            raise ModelError(
                f"{path}: the weight '{tensor.name}' lies in {file.name}, which is missing",
                hint=f"put {file.name} beside the model",
            )
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        size = files.setdefault(file, file.stat().st_size)
        if end > size:
            raise ModelError(
                f"{path}: {file.name} is cut off: the weight '{tensor.name}' ends at byte {end}, the file at {size}",
                hint=f"copy {file.name} again",
            )
    if files:
        load_external_data_for_model(model, str(path.parent))
    yield from files.values()


def _check(source: Source) -> None:
    graph = source.model.graph
    if not graph.node:
        raise ModelError(f"{source.title}: the graph is empty: it has no nodes")
    if not graph.output:
        raise ModelError(f"{source.title}: the graph has no outputs")
    for tensor in _tensors(source.model):
        if tensor.HasField("raw_data") and not _raw_size_fits(tensor):
            raise ModelError(
                f"{source.title}: the weight '{tensor.name}' does not have the numbers that its "
                f"shape {list(tensor.dims)} says"
            )


def _raw_size_fits(tensor: TensorProto) -> bool:
    small = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    bits = {TensorProto.DataType.Value(n): b for n, b in small.items() if n in TensorProto.DataType.keys()}  # noqa: SIM118 (no mapping)
    count = math.prod(tensor.dims)
    if tensor.data_type in bits:
        return len(tensor.raw_data) == -(-count * bits[tensor.data_type] // 8)
    return len(tensor.raw_data) == count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
