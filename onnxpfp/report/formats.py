"""The formats of a report: each is a function of any report, and a flag of every verb (--json FILE)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from onnxpfp.report.page import Element

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMATS", "Renderer", "ReportView", "Reportable", "plain"]


class Reportable(Protocol):
    """The report of a verb."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows."""
        ...

    def page(self, *, full: bool, wide: bool) -> Iterable[Element]:
        """Return what people read; `full` with all details, `wide` where lines are long."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReportView:
    """How a report is looked at.

    Attributes:
        console: What text is laid out for.
        top: Most rows of a table; None leaves it to the table.
        full: Whether every row and all details are shown.
        names: Files that the report is about, where they stand on the command line.
    """

    console: Console
    top: int | None = None
    full: bool = False
    names: Mapping[str, str | None] = field(default_factory=dict[str, str | None])


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
