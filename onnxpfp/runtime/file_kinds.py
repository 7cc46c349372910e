"""What a file is that was given in the place of another kind: by its beginning, which is cheap to read."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from onnxpfp.errors import OnnxPfpError

__all__ = ["ARRAYS", "IR_VERSION", "MODEL", "WRITTEN", "FileKind", "kind_of", "refuse_other_kinds"]


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file that onnxpfp reads or writes.

    Attributes:
        title: What it is, with its article.
        use: Where it belongs.
    """

    title: str
    use: str


ARRAYS, MODEL = "arrays", "onnx"
"""What other formats are called here; those of onnxpfp by the words that their files have."""
_SCORES = "onnxpfp-scores"
_BY_FORMAT = {
    ARRAYS: FileKind("a file of arrays", "--calib-data takes samples in such a file"),
    MODEL: FileKind("an ONNX model", "models are given without an option: onnxpfp prune IN OUT"),
    _SCORES: FileKind("a file of scores of onnxpfp", "--scores takes it"),
    "onnxpfp-plan": FileKind("a plan of onnxpfp", "--from-plan takes it"),
    "onnxpfp-sparse-plan": FileKind("a plan of onnxpfp sparsify", "--from-plan of onnxpfp sparsify takes it"),
    "onnxpfp-latency-table": FileKind("a latency table of onnxpfp", "--latency-table takes it"),
}
_REPORT = FileKind("a report of onnxpfp", "reports are for reading, no option takes one")
_PAGE = FileKind("a page (HTML)", _REPORT.use)
WRITTEN = {
    "a model": (_BY_FORMAT[MODEL],),
    "a plan": (_BY_FORMAT["onnxpfp-plan"], _BY_FORMAT["onnxpfp-sparse-plan"]),
    "a table": (_BY_FORMAT["onnxpfp-latency-table"],),
    "scores": (_BY_FORMAT[_SCORES],),
    "a report": (_REPORT, _PAGE),
    "options": (),
}
"""What the verbs write, and the kinds of files that such a thing may replace."""

_BEGINNING = 4096
"""Bytes that are looked at."""
_FORMAT = re.compile(rb'\s*\{\s*"format":\s*"(onnxpfp-[a-z-]+)"')
_PRUNING = re.compile(rb'\s*\{\s*"before":\s*\{\s*"params"')
_HTML = re.compile(rb"\s*<(!doctype html|html)\b", re.IGNORECASE)
IR_VERSION = 8
"""The byte with which every exporter begins: field 1, a varint."""


def kind_of(path: Path) -> FileKind | None:
    """Return what a file is; None where that is not known, or there is no file."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(_BEGINNING)
        return _by_archive(path) if data.startswith(b"PK\x03\x04") else _by_beginning(path, data)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        # Whoever reads all of it says what is wrong with it.
        return None


def _by_archive(path: Path) -> FileKind | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if {"header.npy", "digests.npy"} <= {*names}:
        return _BY_FORMAT[_SCORES]
    return _BY_FORMAT[ARRAYS] if names and all(name.endswith(".npy") for name in names) else None


def _by_beginning(path: Path, data: bytes) -> FileKind | None:
    if data.startswith(b"\x93NUMPY"):
        return _BY_FORMAT[ARRAYS]
    if match := _FORMAT.match(data):
        return _BY_FORMAT.get(match[1].decode(), _REPORT)
    if _PRUNING.match(data):
        return _REPORT
    if _HTML.match(data):
        return _PAGE
    return _BY_FORMAT[MODEL] if path.suffix.lower() == ".onnx" and data[:1] == bytes([IR_VERSION]) else None


def refuse_other_kinds(path: Path, wanted: str, own: str, error: type[OnnxPfpError]) -> None:
    """Refuse a file that is known to be of another kind.

    Args:
        path: The file.
        wanted: What is wanted of it, as "a plan of onnxpfp".
        own: Its format.
        error: What is raised.

    Raises:
        OnnxPfpError: As `error`.
    """
    kind = kind_of(path)
    if kind is not None and kind != _BY_FORMAT[own]:
        raise error(f"{path}: is {kind.title}, not {wanted}", hint=kind.use)
