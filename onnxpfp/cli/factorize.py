"""`onnxpfp factorize IN OUT`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import Outputs, check_outputs, publish, write_result
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.time_limit import limited

__all__ = ["factorize_command"]


@click.command("factorize", short_help="Put two ops of low rank in the place of one.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("result", metavar="OUT", type=FILE)
@data_option
@takes(FactorizeOptions)
@click.option("--force", is_flag=True, help="Allow OUT to be IN, and an OUT.data that is none of OUT's to be replaced.")
@reporting_options("N rows of a table", "40 layers, 8 reasons")
def factorize_command(
    source: Path, result: Path, calib_data: str | None, typed: Typed, force: bool, reporting: Reporting
) -> None:
    """Factor the weights of the model IN and write the model OUT with two smaller ops in the place of one.

    \b
      onnxpfp factorize in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.7
      onnxpfp factorize in.onnx out.onnx --energy 0.95

    OUT has the same inputs and outputs as IN, and no channel of IN goes. It is written only after
    it has been checked against IN, and whole or not at all. With --calib-data the factors are those
    that change the outputs of the layers least on the samples, without it those nearest to the
    weights.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        options_of(FactorizeOptions, typed, None)
        reporting.check_rows("row")
        outputs = Outputs(result, None, force)
        check_outputs(outputs, reporting, source, data_files(calib_data))
        _run(source, calib_data, typed, outputs, reporting)


def _run(source: Path, calib_data: str | None, typed: Typed, outputs: Outputs, reporting: Reporting) -> None:
    """Factor, write, and only then talk."""
    from onnxpfp.api.factorize import factorize_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(FactorizeOptions, typed, source)
    with (
        naming_files(source, calib_data, None),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        result = factorize_with(source, calib_data, options, progress=progress, folder=outputs.model.parent)
    names = {"input": str(source), "output": str(outputs.model)}
    publish(result.report, reporting, names, partial(write_result, result, source, outputs))
