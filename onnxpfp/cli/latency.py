"""`onnxpfp latency IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import check_table, publish, write_table
from onnxpfp.errors import OptionError
from onnxpfp.options.latency import LatencyOptions
from onnxpfp.time_limit import limited

__all__ = ["latency_command"]


@click.command("latency", short_help="Measure what ops take at several widths, as a table to prune by.")
@click.argument("source", metavar="IN", type=FILE)
@data_option
@takes(LatencyOptions)
@click.option("--output", "-o", type=FILE, metavar="FILE.json", help="Write the table, for --latency-table of prune.")
@click.option(
    "--models",
    type=FILE,
    metavar="DIR",
    help="Write the models at all widths, to be timed on another device; the table is a form for that then.",
)
@reporting_options("N ops, those that take most first", "20")
def latency_command(
    source: Path,
    calib_data: str | None,
    typed: Typed,
    output: Path | None,
    models: Path | None,
    reporting: Reporting,
) -> None:
    """Measure the latency of the model IN and of its ops at several widths, on this machine.

    \b
      onnxpfp latency in.onnx -o table.json --threads 1
      onnxpfp latency in.onnx -o table.json --models points

    `onnxpfp prune --keep-latency F --latency-table table.json` prunes for the machine that the
    table was measured on. No data are needed: without --calib-data the model runs on noise. With
    --models nothing is measured here: the models are for a device that does not run onnxpfp.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        options_of(LatencyOptions, typed, None)
        reporting.check_rows("op")
        if models is not None and output is None:
            raise OptionError("--models goes with --output, for the table says which widths they have")
        check_table(output, models, reporting, source, data_files(calib_data))
        _run(source, calib_data, typed, output, models, reporting)


def _run(
    source: Path, calib_data: str | None, typed: Typed, output: Path | None, models: Path | None, reporting: Reporting
) -> None:
    from onnxpfp.api.latency import latency_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(LatencyOptions, typed, source)
    with (
        naming_files(source, calib_data, None),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        report = latency_with(source, calib_data, options, models=models, progress=progress)
    names = {"table": None if output is None else str(output)}
    of_models = [] if models is None else [str(models)]
    publish(report, reporting, names, lambda: [*write_table(report.table, output), *of_models])
