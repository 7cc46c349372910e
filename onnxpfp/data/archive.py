"""Arrays in `.npz` and `.npy` files of others: no pickles, and no more memory than the header may ask for.

The header of every array is held against the bytes that are there before the array is read: an archive of a few
kilobytes can promise terabytes, or hold gigabytes of zeros. Only the arrays that are asked for are unpacked.
"""

from __future__ import annotations

import io
import lzma
import math
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = ["read_arrays"]

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_LONGEST_HEADER = 1 << 16
"""Bytes; the limit of numpy is lower."""
_LONGEST_EMPTY = 1 << 24
"""Length of an axis of an array without numbers: a file of no size can promise any."""
_DAMAGED = (OSError, ValueError, TypeError, EOFError, RecursionError, OverflowError, NotImplementedError, RuntimeError)
"""What reading ends in; zipfile raises NotImplementedError for ways of packing that it does not know."""
_UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError)
"""What unpacking ends in; a compressed array says itself how much memory that takes."""


def read_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """Open the arrays of a `.npz` file by name, or map that of a `.npy` file under the empty name.

    Returns:
        What reads an array of an archive whenever it is asked for.

    Raises:
        CalibrationError: It is neither, or is damaged; for an array of an archive when it is asked for.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise CalibrationError(f"{path} {what}", hint="check the path of the data")
    with _explained(path), path.open("rb") as file:
        if file.read(4) in _ZIP:
            return _Archive(path)
        file.seek(0)
        _check_header(file, path.stat().st_size)
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}


class _Archive(Mapping[str, NDArray[Any]]):
    """The arrays of a `.npz` file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self._members[name]
        with _explained(self._path), zipfile.ZipFile(self._path) as archive:
            with archive.open(member) as stream:
                _check_header(stream, member.file_size)
            limit = memory_limit()
            if member.file_size > limit:
                raise CalibrationError(
                    f"{self._path}: the array '{name}' takes {amount_text(member.file_size)}, and the memory is "
                    f"{amount_text(limit)}",
                    hint="save it alone with numpy.save: a .npy file need not fit into memory",
                )
            with archive.open(member) as stream:
                array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
                # What is read to its end has its checksum compared.
                stream.read(1)
            return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _check_header(stream: IO[bytes], size: int) -> None:
    """Make sure that an array is one of numbers, and that there are as many bytes as its header says.

    Args:
        stream: The file or member, at its beginning.
        size: Bytes that it has.

    Raises:
        ValueError: It is not, or there are not.
    """
    start = stream.read(12)
    if start[:6] != npy.MAGIC_PREFIX or len(start) < 12:
        raise ValueError("it is neither, or holds Python objects")
    wide = start[6] > 1
    length = int.from_bytes(start[8:12] if wide else start[8:10], "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"its header has {length} bytes")
    end = (12 if wide else 10) + length
    header = io.BytesIO(start[8:] + stream.read(end - len(start)))
    # A header of version 3 differs by the letters that names of fields may have.
    read = npy.read_array_header_2_0 if wide else npy.read_array_header_1_0
    try:
        shape, _, dtype = read(header)
    except Exception as error:
        # numpy parses it as Python, whose parser and tokenizer have errors of their own.
        raise ValueError("its header is no header") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if any(axis < 0 for axis in shape):
        raise ValueError(f"its header says the shape {shape}")
    needed = end + math.prod(shape) * dtype.itemsize
    if needed > size:
        raise ValueError(f"its header says {needed} bytes, there are {size}")
    if needed == end and any(axis > _LONGEST_EMPTY for axis in shape):
        raise ValueError(f"its header says the shape {shape}, without a number in it")


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Say in one line why a file cannot be read.

    Raises:
        CalibrationError: It cannot.
    """
    try:
        yield
    except (*_DAMAGED, *_UNPACKING) as error:
        # numpy takes what it does not know for a pickle, and advises to load it unsafely.
        pickled = "pickle" in str(error)
        reason = "it is neither, or holds Python objects" if pickled else " ".join(str(error).split())
        raise CalibrationError(
            f"{path} cannot be read as .npz or .npy: {reason or 'it is damaged'}",
            hint="write it with numpy.savez(path, input_name=array), numbers only; text as np.array(list_of_str), "
            "which has a dtype such as <U8",
        ) from error
