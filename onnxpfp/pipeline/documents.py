"""JSON files of others: of a bounded size, with whole numbers where there must be some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from onnxpfp.errors import OnnxPfpError
from onnxpfp.runtime.file_kinds import refuse_other_kinds
from onnxpfp.runtime.given_files import read_given

__all__ = ["read_document", "read_made_by", "whole_number"]

_LARGEST = 256 << 20
"""Bytes; the plan of a network with ten million channels is smaller."""


def read_document(path: Path, kind: str, own: str, error_type: type[OnnxPfpError]) -> Mapping[str, Any]:
    """Read the object that a JSON file holds; empty where it holds something else.

    Args:
        path: The file.
        kind: What it is said to be, such as "plan of onnxpfp".
        own: The format of these.
        error_type: What is raised if it is not.

    Raises:
        OnnxPfpError: It cannot be read, or is no JSON; of that type.
    """
    refuse_other_kinds(path, f"a {kind}", own, error_type)
    data = read_given(path, _LARGEST, error_type, hint=f"a {kind} is smaller")
    try:
        document: object = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path}: is no JSON: {error}") from error
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def read_made_by(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return what a plan says of the file that it was made with; nothing where it does not say.

    Raises:
        ValueError: It says something else than texts.
    """
    made_by = dict(fields.get("made_by", {}))
    if not all(isinstance(text, str) for text in made_by.values()):
        raise ValueError("made_by has something else than texts")
    return made_by


def whole_number(value: object) -> int:
    """Return a whole number of a document as it is.

    Raises:
        ValueError: It is something else: 1.5, "1" and true are no indices.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no whole number")  # noqa: TRY004 (the data are wrong, not the program)
    return value
