"""`onnxpfp prunability IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import (
    FILE,
    Typed,
    data_file,
    data_option,
    json_option,
    options_of,
    rows_options,
    rows_shown,
    takes,
    verbosity_options,
)
from onnxpfp.cli.outputs import check_report, write_report
from onnxpfp.options import PrunabilityOptions

__all__ = ["prunability_command"]


@click.command("prunability", short_help="Measure how little can be kept, group by group and as a whole.")
@click.argument("source", metavar="IN", type=FILE)
@data_option
@takes(PrunabilityOptions)
@rows_options("groups, the most fragile first")
@json_option
@verbosity_options
def prunability_command(
    source: Path,
    calib_data: str | None,
    typed: Typed,
    top: int | None,
    every: bool,
    json_file: Path | None,
    verbosity: int,
) -> None:
    """Measure the smallest share of the model IN that can be kept within a tolerance, and the curve.

    \b
      onnxpfp prunability in.onnx --calib-data calibration.npz
      onnxpfp prunability in.onnx --calib-data calibration.npz --tolerance 0.01 --json in.json

    Every group of channels is narrowed alone, and the whole network is pruned to shares of its
    multiply-adds, as `onnxpfp prune` would with the same options. No model is written.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        rows = rows_shown(top, every=every, json_file=json_file, verbosity=verbosity, what="group")
        check_report(json_file, source, data_file(calib_data))
        _run(source, calib_data, typed, rows, json_file, verbosity)


def _run(
    source: Path, calib_data: str | None, typed: Typed, rows: int | None, json_file: Path | None, verbosity: int
) -> None:
    from onnxpfp.api.prunability import prunability_with
    from onnxpfp.cli.terminal import make_console, progress_display
    from onnxpfp.report.print_prunability import print_prunability
    from onnxpfp.report.print_pruning import print_notes

    options = options_of(PrunabilityOptions, typed, source)
    with naming_files(source, calib_data, None), progress_display(verbosity) as tell:
        report = prunability_with(source, calib_data, options, progress=tell)
    if not write_report(json_file, report.to_dict()) and verbosity >= 0:
        print_prunability(report, make_console(), top=rows)
    if verbosity >= 0:
        print_notes(report.notes, make_console(stderr=True))
