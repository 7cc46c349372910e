"""`onnxpfp verify ORIGINAL PRUNED`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import check_reports, publish
from onnxpfp.errors import ModelError, VerificationError
from onnxpfp.options.verification import VerifyOptions
from onnxpfp.time_limit import limited

__all__ = ["verify_command"]


@click.command("verify", short_help="Compare a pruned file with its original, whatever made it.")
@click.argument("original", metavar="ORIGINAL", type=FILE)
@click.argument("pruned", metavar="PRUNED", type=FILE)
@data_option
@takes(VerifyOptions)
@click.option("--plan", type=FILE, metavar="FILE.json", help="The plan by which PRUNED is said to be pruned.")
@reporting_options("N rows of a table")
def verify_command(
    original: Path, pruned: Path, calib_data: str | None, typed: Typed, plan: Path | None, reporting: Reporting
) -> None:
    """Compare the model PRUNED with the model ORIGINAL that it was made from, by whatever tool.

    \b
      onnxpfp verify in.onnx out.onnx --calib-data calibration.npz
      onnxpfp verify in.onnx out.onnx --calib-data calibration.npz --plan plan.json --max-drift 0.1

    Interface, outputs, size, multiply-adds and latency are compared; without --calib-data the
    outputs are compared on noise. The exit code is 0 if the interface is the same, the outputs
    could be compared and whatever is asked for holds, 4 if not.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        options_of(VerifyOptions, typed, None)
        reporting.check_rows("row")
        for file in (original, pruned):
            if not file.exists():
                raise ModelError(f"{file}: there is no such file")
        read = data_files(calib_data) | {"PRUNED": pruned} | ({} if plan is None else {"--plan": plan})
        check_reports(reporting, original, read)
        _run(original, pruned, calib_data, typed, plan, reporting)


def _run(
    original: Path, pruned: Path, calib_data: str | None, typed: Typed, plan_file: Path | None, reporting: Reporting
) -> None:
    from onnxpfp.api.verify import verify_with
    from onnxpfp.cli.terminal import progress_display
    from onnxpfp.pipeline.plan import Plan

    options = options_of(VerifyOptions, typed, original)
    with (
        naming_files(original, calib_data, plan_file, pruned),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        plan = None if plan_file is None else Plan.read(plan_file)
        report = verify_with(original, pruned, calib_data, options, plan=plan, progress=progress)
    publish(report, reporting)
    if not report.passed:
        first, *others = report.problems
        more = f" ({len(others)} more in the report)" if others else ""
        raise VerificationError(f"{pruned} does not pass: {first}{more}")
