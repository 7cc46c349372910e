"""`onnxpfp inspect IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Typed, json_option, options_of, rows_options, rows_shown, takes, verbosity_options
from onnxpfp.cli.outputs import check_report, write_report
from onnxpfp.options import ScopeOptions

__all__ = ["inspect_command"]


@click.command("inspect", short_help="Show what could be pruned, and why the rest stays.")
@click.argument("source", metavar="IN", type=FILE)
@takes(ScopeOptions)
@rows_options("rows of a table, the most expensive first")
@json_option
@verbosity_options
def inspect_command(
    source: Path, typed: Typed, top: int | None, every: bool, json_file: Path | None, verbosity: int
) -> None:
    """Show the groups of channels of the model IN, what lies behind each, and what stays and why.

    \b
      onnxpfp inspect in.onnx
      onnxpfp inspect in.onnx --json in.json

    No data are needed, and nothing is pruned. A group is pruned as `onnxpfp prune` decides; what it
    would save if nothing of it stayed is shown in parameters and multiply-adds.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        rows = rows_shown(top, every=every, json_file=json_file, verbosity=verbosity, what="row")
        check_report(json_file, source, {})
        _run(source, typed, rows, json_file, verbosity)


def _run(source: Path, typed: Typed, rows: int | None, json_file: Path | None, verbosity: int) -> None:
    from onnxpfp.api.inspect import inspect_with
    from onnxpfp.cli.terminal import make_console, progress_display
    from onnxpfp.report.print_inspection import print_inspection

    options = options_of(ScopeOptions, typed, source)
    with naming_files(source, None, None), progress_display(verbosity) as tell:
        tell("channels", 0, 1)
        inspection = inspect_with(source, options)
    if not write_report(json_file, inspection.to_dict()) and verbosity >= 0:
        print_inspection(inspection, make_console(), top=rows)
