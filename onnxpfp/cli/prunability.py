"""`onnxpfp prunability IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import check_reports, publish
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.time_limit import limited

__all__ = ["prunability_command"]


@click.command("prunability", short_help="Measure how little can be kept, group by group and as a whole.")
@click.argument("source", metavar="IN", type=FILE)
@data_option
@takes(PrunabilityOptions)
@reporting_options("N groups, the most fragile first")
def prunability_command(source: Path, calib_data: str | None, typed: Typed, reporting: Reporting) -> None:
    """Measure the smallest share of the model IN that can be kept within a tolerance, and the curve.

    \b
      onnxpfp prunability in.onnx --calib-data calibration.npz
      onnxpfp prunability in.onnx --calib-data calibration.npz --tolerance 0.01 --json in.json

    Every group of channels is narrowed alone, and the whole network is pruned to shares of its
    multiply-adds, as `onnxpfp prune` would with the same options. No model is written.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        reporting.check_rows("group")
        check_reports(reporting, source, data_files(calib_data))
        _run(source, calib_data, typed, reporting)


def _run(source: Path, calib_data: str | None, typed: Typed, reporting: Reporting) -> None:
    from onnxpfp.api.prunability import prunability_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(PrunabilityOptions, typed, source)
    with (
        naming_files(source, calib_data, None),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        report = prunability_with(source, calib_data, options, progress=progress)
    publish(report, reporting)
