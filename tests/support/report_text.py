"""The text of a report as a test reads it."""

from __future__ import annotations

import io

from rich.console import Console

from onnxpfp.report.page import Reportable, ReportView
from onnxpfp.report.text import as_text


def text_of(report: Reportable, *, width: int = 140, top: int | None = None) -> str:
    """The text of a report with at most so many rows of a table; None is every row."""
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    return as_text(report, ReportView(console, top, full=top is None))


def line_of(text: str, start: str) -> str:
    """The first line that starts so, with single spaces."""
    return next(" ".join(line.split()) for line in text.splitlines() if line.strip().startswith(start))
