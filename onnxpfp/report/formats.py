"""The formats of a report: each is a function of any report, and a flag of every verb (--json FILE)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from onnxpfp.report.page import Reportable, ReportView

__all__ = ["FORMATS", "Renderer", "plain"]

Renderer = Callable[[Reportable, ReportView], str]


def as_json(report: Reportable, view: ReportView) -> str:
    """Write a report as JSON, always complete."""
    return json.dumps({**report.to_dict(), **view.names}, indent=1, allow_nan=False) + "\n"


FORMATS: Mapping[str, Renderer] = {"json": as_json}
"""The formats of files by name; on a console a report is text (`onnxpfp.report.text`)."""


def plain(value: Any) -> Any:
    """Return a value in types that JSON knows; what is infinite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value
