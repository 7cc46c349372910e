"""The formats of a report: each is a function of any report, and a flag of every verb (--json FILE)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from onnxpfp.errors import OutputError
from onnxpfp.report.page import Reportable, ReportView

__all__ = ["FORMATS", "Format", "Renderer", "plain"]

Renderer = Callable[[Reportable, ReportView], str]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files.

    Attributes:
        render: Writes a report in it.
        title: What help calls it.
        suffix: End of the names of its files, where help shows one.
        package: A package that it takes, which the extra of the format's name installs; empty where it takes none.
    """

    render: Renderer
    title: str
    suffix: str = ""
    package: str = ""

    def check(self, name: str) -> None:
        """Make sure that it can be written here.

        Args:
            name: Its name, which is that of its flag and of the extra.

        Raises:
            OutputError: Its package is not installed.
        """
        if self.package and find_spec(self.package) is None:
            raise OutputError(
                f"--{name} needs the package {self.package}, which is not installed",
                hint=f"pip install {self.package}, which the extra '{name}' of onnxpfp brings, too",
            )


def as_json(report: Reportable, view: ReportView) -> str:
    """Write a report as JSON, always complete."""
    return json.dumps({**report.to_dict(), **view.names}, indent=1, allow_nan=False) + "\n"


def as_html(report: Reportable, view: ReportView) -> str:
    """Write a report as one HTML page, with charts and all rows."""
    from onnxpfp.report.html_page import render_html

    return render_html(report, view)


FORMATS: Mapping[str, Format] = {
    "json": Format(as_json, "JSON"),
    "report": Format(as_html, "one HTML page that needs nothing else", ".html", package="jinja2"),
}
"""The formats of files by the name of their flag; on a console a report is text (`onnxpfp.report.text`)."""


def plain(value: Any) -> Any:
    """Return a value in types that JSON knows; what is infinite becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return value
