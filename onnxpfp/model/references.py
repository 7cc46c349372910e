"""Where weights that lie in other files are: inside the model's folder, and inside the file.

A model is data of somebody else, and a pruned copy of it may be passed on. So no weight is read from a file that is not
the model's: not by a path that leaves its folder, nor by a link that does. Caches keep a model and its weights under
other names in one folder and link to both; that is the model's folder as well.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnx import TensorProto

from onnxpfp.errors import ModelError
from onnxpfp.model.soundness import misfit, raw_size
from onnxpfp.runtime.external_data import FileSlice, stamp_of

__all__ = ["location_of", "part_of"]

_LONGEST_NUMBER = 20
"""Digits; 2^64 has so many."""


def location_of(tensor: TensorProto) -> str:
    """Return the name of the file in which a weight lies, as the model has it."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def part_of(path: Path, tensor: TensorProto) -> FileSlice:
    """Return where a weight lies, and make sure that it is all there.

    Args:
        path: The model.
        tensor: A weight of a known type and a possible shape.

    Raises:
        ModelError: The file is missing, cut off, or none of the model's.
    """
    file = _file_of(path, tensor)
    size = raw_size(tensor)
    offset, length = _number(path, tensor, "offset", 0), _number(path, tensor, "length", size)
    available = file.stat().st_size
    if offset + length > available:
        raise ModelError(
            f"{path}: {file.name} is cut off: the weight '{tensor.name}' ends at byte {offset + length}, "
            f"the file at {available}",
            hint=f"copy {file.name} again",
        )
    if length != size:
        raise misfit(str(path), tensor)
    return FileSlice(file.absolute(), offset, length, stamp_of(file))


def _file_of(path: Path, tensor: TensorProto) -> Path:
    """Find the file of a weight.

    Raises:
        ModelError: There is none, or it is none of the model's.
    """
    name = location_of(tensor)
    location = Path(name)
    where = f"{path}: the weight '{tensor.name}' lies in"
    if not location.parts:
        raise ModelError(f"{where} a file without a name", hint="export the model again")
    if location.is_absolute() or ".." in location.parts:
        raise ModelError(
            f"{where} {name}, outside the model's folder",
            hint="ONNX does not allow that: put the file beside the model and name it there",
        )
    file = path.parent / location
    try:
        mode = file.stat().st_mode
        real = Path(os.path.realpath(file))
    except FileNotFoundError as error:
        raise ModelError(f"{where} {name}, which is missing", hint=f"put {name} beside the model") from error
    except (OSError, ValueError) as error:
        # Such as a name that is too long, or has a null byte.
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{where} {name}, which cannot be read: {reason}") from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"{where} {name}, which is no regular file", hint=f"put {name} beside the model")
    folders = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}
    if not any(real.is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"{where} {name}, which links to {real}, outside the model's folder",
            hint="copy the file itself beside the model, if it is the model's",
        )
    return file


def _number(path: Path, tensor: TensorProto, key: str, default: int) -> int:
    """Read an offset or length.

    Raises:
        ModelError: It is none.
    """
    text = next((entry.value for entry in tensor.external_data if entry.key == key), None)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise ModelError(
            f"{path}: the weight '{tensor.name}' has the {key} '{text}' in {location_of(tensor)}",
            hint="it must be a whole number of bytes, not negative: export the model again",
        )
    return int(text)
