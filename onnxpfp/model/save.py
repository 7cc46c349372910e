"""Write files so that a failure leaves what was there."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from onnxpfp.errors import OutputError
from onnxpfp.model.new_files import flush, new_file
from onnxpfp.model.save_weights import save_with_weights, weights_beside, weights_owned
from onnxpfp.runtime.external_data import is_reference
from onnxpfp.runtime.given_files import MESSAGE_LIMIT

__all__ = ["check_folder", "check_target", "keep_weights", "replacing", "save_alone", "save_bytes", "save_model"]


def check_target(path: Path, *, source: Path | None, force: bool) -> None:
    """Make sure before the work that the result can be written.

    Raises:
        OutputError: It is meant for stdout, the directory is missing or closed, or the input would be overwritten.
    """
    _refuse_stdout(path, hint="name a file")
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


def check_folder(folder: Path) -> None:
    """Make sure before the work that files can be written into a folder, which need not be there yet.

    Raises:
        OutputError: It is meant for stdout, a file, or closed, or the one around it is missing or closed.
    """
    _refuse_stdout(folder, hint="name a directory")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, not a directory", hint="name another directory")
    there = folder if folder.is_dir() else folder.parent
    if not there.is_dir():
        raise OutputError(f"{folder}: the directory {there} does not exist", hint=f"make it: mkdir -p {there}")
    if not _writable(there):
        raise OutputError(f"{folder}: the directory {there} cannot be written", hint="name another directory")


def _refuse_stdout(path: Path, *, hint: str) -> None:
    """Refuse `-`, which would become a file or a directory of that name where who typed it means stdout.

    Raises:
        OutputError: It is that.
    """
    if str(path) == "-":
        raise OutputError(f"{path}: only reports are written to stdout", hint=hint)


def keep_weights(target: Path, read: Sequence[Path]) -> None:
    """Make sure that the weights of a result are not written over those of an input that stays.

    Args:
        target: Where the result goes.
        read: The input and the files of its weights.

    Raises:
        OutputError: They would be.
    """
    weights = weights_beside(target)
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
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """Yield a new file that becomes `path` when it is whole, and vanishes when it is not.

    Raises:
        OutputError: It cannot be written.
    """
    with new_file(path) as (file, temporary):
        yield file
        flush(file)
        temporary.replace(path)


def save_model(path: Path, model: ModelProto, *, external: bool, force: bool = False) -> int:
    """Write a model; weights go to `<name>.data` where they did so before, where they lie in files, or above 2 GB.

    Args:
        path: Where to.
        model: The model.
        external: Whether its weights lay in other files before.
        force: Whether a `<name>.data` that is none of the model at `path` may be replaced.

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
            external = len(data) > MESSAGE_LIMIT
            if not external:
                return save_alone(path, data)
    return save_with_weights(path, model, force=force)


def save_alone(path: Path, data: bytes) -> int:
    """Write a model that holds its weights; those that a model of that name had beside it go then.

    Returns:
        Bytes written.

    Raises:
        OutputError: It cannot be written.
    """
    old = weights_owned(path)
    save_bytes(path, data)
    for file in old:
        with contextlib.suppress(OSError):
            file.unlink()
    return len(data)
