"""Write files so that a failure leaves what was there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from onnxpfp.errors import OutputError
from onnxpfp.model.constants import all_graphs
from onnxpfp.runtime.external_data import PAGE, FileSlice, is_reference, pieces

__all__ = ["check_target", "keep_weights", "save_bytes", "save_model"]

LIMIT = 2**31 - 1
"""Bytes; a protobuf message cannot be larger."""
EXTERNAL_FROM = 1024
"""Bytes; smaller weights, shapes among them, stay in the model."""


def check_target(path: Path, *, source: Path | None, force: bool) -> None:
    """Make sure before the work that the result can be written.

    Raises:
        OutputError: The directory is missing or closed, or the input would be overwritten.
    """
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{path}: {folder} is a file, not a directory", hint="name another directory")
    if not folder.is_dir():
        raise OutputError(f"{path}: the directory {folder} does not exist", hint=f"make it: mkdir -p {folder}")
    if path.is_dir():
        raise OutputError(f"{path}: is a directory", hint="name a file")
    if path.exists() and not path.is_file():
        # A device: renaming a file over /dev/null would replace it for everybody.
        raise OutputError(f"{path}: is no regular file", hint="name a file")
    if not _writable(folder):
        raise OutputError(f"{path}: the directory {folder} cannot be written", hint="name another directory")
    if source is not None and not force and path.exists() and path.samefile(source):
        raise OutputError(f"{path}: is the input itself", hint="give another name, or --force to overwrite it")


def keep_weights(target: Path, read: Sequence[Path]) -> None:
    """Make sure that the weights of a result are not written over those of an input that stays.

    Args:
        target: Where the result goes.
        read: The input and the files of its weights.

    Raises:
        OutputError: They would be.
    """
    weights = target.with_name(f"{target.name}.data")
    if not read or not weights.is_file() or (target.exists() and target.samefile(read[0])):
        return
    if any(file.is_file() and file.samefile(weights) for file in read[1:]):
        raise OutputError(
            f"{target}: its weights would overwrite {weights}, which {read[0]} reads", hint="give OUT another name"
        )


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def save_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its place, flush it to the disk, then rename it.

    Raises:
        OutputError: It cannot be written.
    """
    with _replacing(path) as file:
        file.write(data)


@contextmanager
def _replacing(path: Path) -> Generator[IO[bytes]]:
    """Yield a new file that becomes `path` when it is whole, and vanishes when it is not.

    Raises:
        OutputError: It cannot be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary) if path.exists() else temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model(path: Path, model: ModelProto, *, external: bool) -> int:
    """Write a model; weights go to `<name>.data` where they did so before, where they lie in files, or above 2 GB.

    Returns:
        Bytes written, weights included.

    Raises:
        OutputError: It cannot be written.
    """
    if not external and not any(is_reference(tensor) for tensor in model.graph.initializer):
        try:
            data = model.SerializeToString()
        except (EncodeError, ValueError):
            external = True
        else:
            external = len(data) > LIMIT
            if not external:
                save_bytes(path, data)
                return len(data)
    return _save_external(path, model)


def _save_external(path: Path, model: ModelProto) -> int:
    """Write the weights to `<name>.data`, then the model.

    onnx.save_model is not used: it refuses where a file of that name is in the working directory, and
    makes files that only their owner can read.
    """
    weights = path.with_name(f"{path.name}.data")
    copy = ModelProto()
    copy.CopyFrom(model)
    # The model is whole on the disk before the weights get their name: beside other weights it is worthless.
    with _replacing(path) as main, _replacing(weights) as file:
        for tensor in (tensor for graph in all_graphs(copy) for tensor in graph.initializer):
            if not is_reference(tensor) and len(tensor.raw_data) < EXTERNAL_FROM:
                continue
            if is_reference(tensor):
                file.write(bytes(-file.tell() % PAGE))
            offset = file.tell()
            for piece in pieces(tensor):
                file.write(piece)
            FileSlice(Path(weights.name), offset, file.tell() - offset).give_to(tensor)
        size = file.tell()
        data = copy.SerializeToString()
        main.write(data)
        main.flush()
        os.fsync(main.fileno())
    return size + len(data)
