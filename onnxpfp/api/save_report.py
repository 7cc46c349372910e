"""Write the report of any verb as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from onnxpfp.model.save import check_target, save_bytes
from onnxpfp.report.formats import FORMATS
from onnxpfp.report.page import Reportable, ReportView

__all__ = ["save_report"]

NAME = "report"


def save_report(report: Reportable, path: str | os.PathLike[str], *, model: str = "") -> None:
    """Write a report as one HTML page that loads nothing, as `--report` does; an existing file is replaced.

    Args:
        report: What `inspect`, `prunability`, `verify` or `latency` returned, or the `report` of what `prune`,
            `factorize` or `sparsify` did.
        path: Where to.
        model: The name of the model, for the title of the report of `prune`, which has none.

    Raises:
        OutputError: It cannot be written there, or jinja2 is not installed.
    """
    form, target = FORMATS[NAME], Path(path)
    form.check(NAME)
    check_target(target, source=None, force=False)
    save_bytes(target, form.render(report, ReportView(Console(), names={"input": model or None})).encode())
