"""Write files so that a failure leaves what was there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto

from onnxpfp.errors import OutputError

__all__ = ["check_target", "save_bytes", "save_model"]

LIMIT = 2**31 - 1
"""Bytes; a protobuf message cannot be larger."""


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
    handle, temporary = -1, ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary) if path.exists() else os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def save_model(path: Path, model: ModelProto, *, external: bool) -> int:
    """Write a model; weights go to `<name>.data` where they did so before, or above 2 GB.

    Returns:
        Bytes written, weights included.

    Raises:
        OutputError: It cannot be written.
    """
    if not external:
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
    weights = path.name + ".data"
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            onnx.save_model(
                copy,
                str(Path(folder) / path.name),
                save_as_external_data=True,
                all_tensors_to_one_file=True,
                location=weights,
                size_threshold=1024,
                convert_attribute=False,
            )
            written = 0
            for name in (weights, path.name):
                file = Path(folder) / name
                if file.exists():
                    written += file.stat().st_size
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
                    os.replace(file, path.parent / name)
            return written
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
