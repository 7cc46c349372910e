"""Read a model and say in one line what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from onnxpfp.errors import ModelError, one_line
from onnxpfp.model.edit import copy_graph_without, copy_model_around
from onnxpfp.model.folding import fold_weights
from onnxpfp.model.functions import without_functions
from onnxpfp.model.order import with_sorted_nodes
from onnxpfp.model.plain import with_plain_constants
from onnxpfp.model.recorded import StaleShape, drop_contradicted, drop_stale_shapes, stale_note
from onnxpfp.model.references import location_of, part_of
from onnxpfp.model.shapes import Shapes
from onnxpfp.model.soundness import all_tensors, check_soundness, raw_size
from onnxpfp.model.tail import Tail, cut
from onnxpfp.runtime.external_data import (
    FileSlice,
    WeightFile,
    externalise,
    is_reference,
    load_into_memory,
    mappable,
    numbers,
    size_of,
)
from onnxpfp.runtime.file_kinds import IR_VERSION, MODEL, refuse_other_kinds
from onnxpfp.runtime.given_files import MESSAGE_LIMIT, read_given
from onnxpfp.runtime.memory import amount_text, memory_limit
from onnxpfp.runtime.missing import MissingOp

__all__ = ["LoadedModel", "ModelSource", "external_files", "load", "one_line"]

IN_MEMORY = 128 << 20
"""Bytes; weights in other files that are not more together are simply loaded."""
PART_FROM = 1 << 20
"""Bytes; of more, the weights that are at least so large stay in their files."""
HELD_AT_MOST = 2_000_000_000
"""Bytes; a model object with more weights is more than a protobuf message can be."""

_MAGIC = {
    b"PK\x03\x04": "a zip archive (as PyTorch checkpoints are)",
    b"\x1f\x8b": "a gzip archive",
    b"\x89PNG": "a PNG image",
    b"\x89HDF": "an HDF5 file (as Keras checkpoints are)",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model as it was given.

    Attributes:
        model: The model: weights in memory or, above `IN_MEMORY`, in their files; nodes sorted, bodies of local
            functions in place, constants dense, weights that are computed from others folded. It is never changed.
        sha256: Checksum of the file, or of the bytes of a model object, in hexadecimal; of what was cut from one, its.
        path: The file, or None; None, too, where classes were cut from it.
        external: Whether weights lie in other files.
        size_bytes: Size of the file with all its weights.
        scratch: Where new weights go in place of those that lie in files.
        rewritten_from: The model as it was given, where `model` is written in other words; else None.
        flat: The same with bodies in place and constants dense, but nothing folded; None is `model` itself.
        read: The file and those of its weights; empty for a model object.
        data: The bytes of a model object; None for a file, which can be read again.
        stale: Recorded shapes that were not true; `model` has them no more.
        tail: What onnxruntime cannot run, which is no part of `model`; None where it runs all of it.
        place: Where in the file the model is a body, such as `If_0/then_branch`; empty for the file's own graph.
        names: What nodes and weights are called in all graphs of the file, where the model is one of several.
    """

    model: ModelProto
    sha256: str
    path: Path | None
    external: bool
    size_bytes: int
    scratch: WeightFile
    rewritten_from: ModelProto | None = None
    flat: ModelProto | None = None
    read: tuple[Path, ...] = ()
    data: bytes | None = None
    stale: tuple[StaleShape, ...] = ()
    tail: Tail | None = None
    place: str = ""
    names: frozenset[str] = frozenset()

    def given_bytes(self) -> bytes:
        """Return the bytes of the file, or of the model object; they are not held, for they take as much as the model.

        Raises:
            ModelError: The file is gone, or is another one by now.
        """
        if self.data is not None:
            return self.data
        path = self.read[0]
        data = read_given(path, MESSAGE_LIMIT, ModelError, hint="leave it where it is meanwhile")
        if _checksum(data) != self.sha256:
            raise ModelError(f"{path}: was changed while it was in use", hint="start again")
        return data

    def rewritten(self, model: ModelProto) -> LoadedModel:
        """Put a model that computes the same in the place of this one; itself changes nothing."""
        if model is self.model:
            return self
        return replace(self, model=model, rewritten_from=self.rewritten_from or self.model)

    def with_shapes(self, shapes: Shapes) -> LoadedModel:
        """Drop the recorded shapes that contradict those of a run."""
        model, stale = drop_contradicted(self.model, shapes.shape, shapes.dtype)
        return replace(self.rewritten(model), stale=self.stale + stale)

    @property
    def given(self) -> ModelProto:
        """The model as it was given."""
        return self.tail.given if self.tail else self.rewritten_from or self.model

    def without(self, missing: MissingOp, refusal: str) -> LoadedModel | None:
        """Leave an op that onnxruntime lacks, and all behind it, out of `model`.

        Args:
            missing: The op.
            refusal: What onnxruntime says against the model.

        Returns:
            None where it is nowhere in it.
        """
        lacking, refusal = (self.tail.lacking, self.tail.refusal) if self.tail else ((), refusal)
        whole, given = self.whole, self.given
        parts = cut(whole, given, (*lacking, missing), refusal) if missing not in lacking else None
        if parts is None:
            return None
        # Where functions were inlined, the tensors at the cut may lie inside of them: then there is nothing to compare.
        before = None if given is whole else cut(with_sorted_nodes(given), given, parts[1].lacking, refusal)
        alike = before is not None and before[1].reasons.keys() == parts[1].reasons.keys()
        return replace(self, model=parts[0], tail=parts[1], rewritten_from=before[0] if before and alike else None)

    @property
    def whole(self) -> ModelProto:
        """`model` with the rest that was left out of it."""
        return self.tail.whole if self.tail else self.model

    def completed(self, model: ModelProto) -> ModelProto:
        """Return what became of `model` with the rest that was left out of it."""
        return self.tail.put_back(model) if self.tail else model

    def cut_to(self, model: ModelProto) -> LoadedModel:
        """Return a model that is this one without some of its classes; its checksum stays that of this one.

        Args:
            model: The model, all of it.
        """
        parts = {"rewritten_from": None, "flat": None, "tail": None, "path": None}
        return _understood(replace(self, model=model, size_bytes=size_of(model), **parts))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the file."""
        return (*([stale_note(self.stale)] if self.stale else ()), *([self.tail.note] if self.tail else ()))

    @property
    def title(self) -> str:
        """The file's name, as messages quote it, and the place in it."""
        file = str(self.path) if self.path else "the model"
        return f"{file}: {self.place}" if self.place else file


ModelSource = ModelProto | str | os.PathLike[str]
"""A model object, or the path of a file."""


def load(given: ModelSource, folder: Path | None = None) -> LoadedModel:
    """Load and check a model.

    Args:
        given: A path or a model object.
        folder: Where a large model's new weights may lie meanwhile; None is the system's temporary folder.

    Raises:
        ModelError: It is not a model, or one that is broken.
    """
    scratch = WeightFile(folder)
    return _understood(_take(given, scratch) if isinstance(given, ModelProto) else _read(Path(given), scratch))


def _understood(source: LoadedModel) -> LoadedModel:
    """Write a model that was read so that its channels can be told apart."""
    flat, stale = drop_stale_shapes(with_plain_constants(without_functions(with_sorted_nodes(source.model))))
    return replace(source.rewritten(fold_weights(flat)), flat=flat, stale=stale)


def _take(model: ModelProto, scratch: WeightFile) -> LoadedModel:
    """Take a model object; what protobuf cannot write any more is put into a file."""
    check_soundness("the model", model)
    for tensor in all_tensors(model):
        if is_reference(tensor):
            raise ModelError(
                f"the model: the weight '{tensor.name}' lies in a file, and a model object does not say where that is",
                hint="give the path of the model, or load it with its weights: onnx.load(path)",
            )
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < HELD_AT_MOST:
        data = model.SerializeToString(deterministic=True)
        return LoadedModel(model, _checksum(data), None, False, len(data), scratch, data=data)
    small = copy_model_around(model, copy_graph_without(model.graph, {"initializer"}))
    for tensor in model.graph.initializer:
        new = small.graph.initializer.add()
        if len(tensor.raw_data) >= PART_FROM and mappable(tensor.data_type):
            new.name, new.data_type, new.doc_string = tensor.name, tensor.data_type, tensor.doc_string
            scratch.put(new, tuple(tensor.dims), [numbers(tensor)])
        else:
            new.CopyFrom(tensor)
    data = externalise(small)[0].SerializeToString(deterministic=True)
    return LoadedModel(small, _checksum(data), None, False, len(data) + size, scratch, data=data)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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


def _read(path: Path, scratch: WeightFile) -> LoadedModel:
    if not os.path.lexists(path):
        raise ModelError(f"{path}: there is no such file")
    data = read_given(
        path, MESSAGE_LIMIT, ModelError, hint="save it with its weights in another file: onnx.save_model(..., True)"
    )
    refuse_other_kinds(path, "an ONNX model", MODEL, ModelError)
    known = _recognise(data)
    if known is not None:
        raise ModelError(f"{path}: is not an ONNX model: it is {known[0]}", hint=known[1])
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        begins = data[0] == IR_VERSION
        what = f"is cut off after {len(data)} bytes, or damaged" if begins else "is not an ONNX model"
        raise ModelError(f"{path}: {what}: {one_line(error)}", hint="export it again, or copy it again") from error
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise ModelError(
            f"{path}: is not an ONNX model, or it is cut off: it names no IR version, opset or graph",
            hint="export it again, or copy it again",
        )
    check_soundness(str(path), model)
    files = _find_weights(path, model)
    size = len(data) + sum(file.stat().st_size for file in files)
    return LoadedModel(model, _checksum(data), path, bool(files), size, scratch, read=(path, *files))


def external_files(path: Path) -> set[Path]:
    """List the files beside a model in which its weights lie; none for what is no model."""
    model = ModelProto()
    try:
        model.ParseFromString(read_given(path, MESSAGE_LIMIT, ModelError, hint=""))
        files = {path.parent / location_of(tensor) for tensor in all_tensors(model) if uses_external_data(tensor)}
        return {file for file in files if file.is_file()}
    except (DecodeError, ModelError, OSError, TypeError):
        # Whoever loads the model says what is wrong with it.
        return set()


def _find_weights(path: Path, model: ModelProto) -> list[Path]:
    """Find the weights that lie in other files, load those that shall be in memory, and return the files."""
    parts = [(tensor, part_of(path, tensor)) for tensor in all_tensors(model) if uses_external_data(tensor)]
    for tensor, part in parts:
        part.give_to(tensor)
    total = sum(part.length for _, part in parts)
    few = total <= IN_MEMORY
    if not few:
        _require_memory(path, model)
    for tensor in model.graph.initializer:
        if is_reference(tensor) and (few or not _can_stay(tensor)):
            load_into_memory(tensor)
    # Other tensors can be no inputs, so they are loaded.
    for tensor in islice(all_tensors(model), len(model.graph.initializer), None):
        if is_reference(tensor):
            load_into_memory(tensor)
    return sorted({part.path for _, part in parts})


def _require_memory(path: Path, model: ModelProto) -> None:
    """Make sure that the weights that cannot stay in files fit into memory: many may refer to one part of a file.

    Raises:
        ModelError: They do not.
    """
    graph = model.graph
    staying = (is_reference(tensor) and _can_stay(tensor) for tensor in graph.initializer)
    initializers = (raw_size(tensor) for tensor, stays in zip(graph.initializer, staying, strict=True) if not stays)
    inner = sum(map(raw_size, islice(all_tensors(model), len(graph.initializer), None)))
    size, limit = sum(initializers) + inner, memory_limit()
    if size > limit:
        raise ModelError(
            f"{path}: its small weights take {amount_text(size)}, more than the memory of {amount_text(limit)}"
        )


def _can_stay(tensor: TensorProto) -> bool:
    """Tell whether a weight is worth a mapping, and can be mapped where it lies."""
    part = FileSlice.of(tensor)
    assert part is not None
    size = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return part.length >= PART_FROM and part.offset % size == 0 and mappable(tensor.data_type)
