"""ONNX test data: `test_data_set_0/input_0.pb` and so on, a folder for each sample, as the model zoo has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxpfp.data.inputs import InputSpec
from onnxpfp.errors import CalibrationError

__all__ = ["data_sets_in", "read_test_data"]

_PREFIX, _SUFFIX = "input_", ".pb"


def data_sets_in(folder: Path) -> list[Path]:
    """List the folders of test data: the folder itself, or those in it, in the order of their numbers."""
    if any(folder.glob(f"{_PREFIX}*{_SUFFIX}")):
        return [folder]
    found = [each for each in folder.iterdir() if each.is_dir() and any(each.glob(f"{_PREFIX}*{_SUFFIX}"))]
    return sorted(found, key=lambda each: (_number(each.name), each.name))


def read_test_data(folders: Sequence[Path], specs: Sequence[InputSpec]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the feed of every folder; a tensor is for the input of its name, else of its number.

    Raises:
        CalibrationError: A file is no tensor, or is for no input.
    """
    names = [spec.name for spec in specs]
    for folder in folders:
        feed: dict[str, NDArray[Any]] = {}
        for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"), key=lambda each: _number(each.stem)):
            tensor = _tensor(path)
            number = _number(path.stem)
            name = tensor.name if tensor.name in names else names[number] if 0 <= number < len(names) else ""
            if not name:
                raise CalibrationError(
                    f"{path} is for no input: it is called '{tensor.name}', and the inputs are {', '.join(names)}",
                    hint="input_0.pb is for the first input, or for the one that its tensor is called like",
                )
            feed[name] = _numbers(path, tensor)
        yield feed


def _number(name: str) -> int:
    """Return the number at the end of a name; -1 where there is none."""
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits) if digits else -1


def _tensor(path: Path) -> TensorProto:
    tensor = TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise CalibrationError(f"{path} is no ONNX tensor: {error}", hint="write it as a TensorProto") from error
    return tensor


def _numbers(path: Path, tensor: TensorProto) -> NDArray[Any]:
    """Return the numbers of a tensor in the file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.UNDEFINED:
        raise CalibrationError(f"{path} is no ONNX tensor with numbers", hint="write it with onnx.numpy_helper")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path} is no ONNX tensor: {' '.join(str(error).split())}", hint="write it with onnx.numpy_helper"
        ) from error
    return np.array(array)
