"""`onnxpfp inspect IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, options_of, reporting_options, takes
from onnxpfp.cli.outputs import check_reports, publish
from onnxpfp.options.inspection import InspectOptions
from onnxpfp.time_limit import limited

__all__ = ["inspect_command"]


@click.command("inspect", short_help="Show what could be pruned, and why the rest stays.")
@click.argument("source", metavar="IN", type=FILE)
@takes(InspectOptions)
@reporting_options("N rows of a table, the most expensive first")
def inspect_command(source: Path, typed: Typed, reporting: Reporting) -> None:
    """Show what can be pruned of the model IN, group by group, and why the rest stays.

    \b
      onnxpfp inspect in.onnx
      onnxpfp inspect in.onnx --json in.json

    No data are needed, and nothing is pruned. Each group is shown with the parameters and
    multiply-adds that would go if all of it went; how much goes is for `onnxpfp prune` to decide.
    Where weights are subnormal numbers, runs with and without them are timed.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        reporting.check_rows("row")
        check_reports(reporting, source, {})
        _run(source, typed, reporting)


def _run(source: Path, typed: Typed, reporting: Reporting) -> None:
    from onnxpfp.api.inspect import inspect_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(InspectOptions, typed, source)
    with naming_files(source, None, None), limited(options.timeout), progress_display(reporting.verbosity) as progress:
        progress("channels", 0, 1)
        inspection = inspect_with(source, options, progress=progress)
    publish(inspection, reporting)
