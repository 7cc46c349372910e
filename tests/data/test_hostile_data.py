"""Broken and hostile data files: one line, no pickle is loaded, and no more memory is taken than there is."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxpfp.data import archive
from onnxpfp.data.archive import read_arrays
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.sources import load_samples
from onnxpfp.errors import CalibrationError

SPECS = (InputSpec("x", np.dtype(np.float32), (None, 3)),)
IMAGES = np.arange(24, dtype=np.float32).reshape(8, 3)


class Trap:
    """Says so when it is loaded."""

    sprung: list[str] = []  # noqa: RUF012 (shared on purpose)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return _spring, ("loaded",)


def _spring(how: str) -> None:
    Trap.sprung.append(how)


def array_bytes(header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Write an array with any header."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + content


def header(shape: object, descr: object = "<f4") -> str:
    return repr({"descr": descr, "fortran_order": False, "shape": shape})


def plain() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


BROKEN: dict[str, bytes] = {
    "pickle": pickle.dumps(Trap()),
    "pickled objects": pickled(),
    "objects by header": array_bytes(header((8, 3), "|O"), bytes(192)),
    "terabytes": array_bytes(header((2**40, 3))),
    "2^62": array_bytes(header((2**62, 3)), bytes(96)),
    "2^200": array_bytes(header((2**100, 2**100)), bytes(96)),
    "negative": array_bytes(header((-8, -3)), bytes(96)),
    "one negative": array_bytes(header((-1, 3)), bytes(96)),
    "nothing, 2^62 times": array_bytes(header((2**62, 0))),
    "shape of text": array_bytes(header(("a",)), bytes(96)),
    "shape of floats": array_bytes(header((8.0, 3.0)), bytes(96)),
    "no shape": array_bytes(header(None), bytes(96)),
    "element type": array_bytes(header((8, 3), "no type"), bytes(96)),
    "huge element": array_bytes(header((8, 3), "|V2000000000"), bytes(96)),
    "brackets": array_bytes("(" * 9000),
    "long header": array_bytes("(" * 60000),
    "code": array_bytes("__import__('os').abort()"),
    "too few numbers": plain()[:-4],
    "no header": plain()[:9],
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "version": b"\x93NUMPY\x09\x00" + plain()[8:],
    "empty": b"",
    "text": b"hello",
}


@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
@pytest.mark.parametrize("name", list(BROKEN))
def test_arrays_that_are_none(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / "data.npz"
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("x.npy", BROKEN[name])
    else:
        path.write_bytes(BROKEN[name])
    Trap.sprung.clear()
    with pytest.raises(CalibrationError) as failure:
        load_samples(path, SPECS)
    assert str(failure.value).startswith(f"{path} cannot be read as .npz or .npy: ")
    assert len(str(failure.value)) < 700
    assert failure.value.hint == (
        "write it with numpy.savez(path, input_name=array), numbers only; text as np.array(list_of_str), which has a "
        "dtype such as <U8"
    )
    assert not Trap.sprung


def damaged(kind: str) -> bytes:
    """Pack an array and break the archive."""
    buffer = io.BytesIO()
    method = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}.get(kind, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("x.npy", plain())
    data = bytearray(buffer.getvalue())
    central = data.rindex(b"PK\x01\x02")
    match kind:
        case "encrypted":
            data[6] |= 1
            data[central + 8] |= 1
        case "method":
            data[8:10] = data[central + 10 : central + 12] = struct.pack("<H", 77)
        case "checksum":
            data[central + 16 : central + 20] = b"\x00\x01\x02\x03"
        case "offset":
            data[central + 42 : central + 46] = struct.pack("<I", 2**31)
        case "cut":
            del data[len(data) // 2 :]
        case _:
            data[50:60] = bytes(10)
    return bytes(data)


@pytest.mark.parametrize("kind", ["encrypted", "method", "checksum", "offset", "cut", "deflated", "lzma", "bzip2"])
def test_archives_that_are_broken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(damaged(kind))
    with pytest.raises(CalibrationError, match=r"cannot be read as \.npz or \.npy: \S"):
        load_samples(path, SPECS)


def bomb(path: Path, gigabytes: int, shape: tuple[int, ...], name: str = "x") -> None:
    """Pack zeros."""
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file,
        file.open(f"{name}.npy", "w", force_zip64=True) as out,
    ):
        out.write(array_bytes(header(shape)))
        for _ in range(64 * gigabytes):
            out.write(bytes(1 << 24))


def test_zeros_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    bomb(path, 1, (2**28 // 3, 3))
    assert path.stat().st_size < 2_000_000
    monkeypatch.setattr(archive, "memory_limit", lambda: 500_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(CalibrationError) as failure:
        load_samples(path, SPECS)
    assert str(failure.value) == f"{path}: the array 'x' takes 1.1 GB, and the memory is 500.0 MB"
    assert "numpy.save" in failure.value.hint


def test_what_no_input_reads_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES)
    bomb(path, 1, (2**40,), "y")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("notes.txt", "none of an array")
        file.writestr("z.npy", pickled())
    monkeypatch.setattr(archive, "memory_limit", lambda: 500_000_000)
    Trap.sprung.clear()
    samples = load_samples(path, SPECS)
    np.testing.assert_array_equal(next(samples.batches(8))["x"], IMAGES)
    assert not Trap.sprung


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_does(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays = {
        "x": IMAGES,
        "columns": np.asfortranarray(IMAGES),
        "half": IMAGES.astype(np.float16),
        "number": np.float32(3),
        "text": np.array(["a", "bc"]),
        "none": np.zeros((0, 3), np.float32),
        "no numbers": np.zeros((8, 0), np.float32),
        "big-endian": IMAGES.astype(">f4"),
        "fields": np.zeros(2, [("a", "<f4"), ("\u03b1", "<i8")]),
    }
    save(tmp_path / "data.npz", **arrays)
    read = read_arrays(tmp_path / "data.npz")
    assert set(read) == set(arrays)
    assert len(read) == len(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
        np.save(tmp_path / "one.npy", array)
        (mapped,) = read_arrays(tmp_path / "one.npy").values()
        np.testing.assert_array_equal(mapped, array)


def test_noise_that_no_memory_holds() -> None:
    wide = (InputSpec("x", np.dtype(np.float32), (None, 2**30)),)
    with pytest.raises(CalibrationError, match=r"noise of shape \(4096, 1073741824\) for input 'x' takes 17\.6 TB"):
        load_samples("random", wide, count=4096)
    with pytest.raises(CalibrationError, match="EB, and the memory is"):
        load_samples("random", (InputSpec("x", np.dtype(np.float32), (None, sys.maxsize)),), count=4)


def test_unpacking_that_takes_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member packed by LZMA says how large its dictionary is; found by fuzzing."""

    def out_of_memory(self: zipfile.ZipExtFile, n: int = -1) -> bytes:
        raise MemoryError

    path = tmp_path / "x.npz"
    np.savez(path, x=IMAGES)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", out_of_memory)
    with pytest.raises(CalibrationError, match=r"x\.npz cannot be read as \.npz or \.npy: it is damaged"):
        load_samples(path, SPECS)
