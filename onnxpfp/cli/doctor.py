"""`onnxpfp doctor`."""

from __future__ import annotations

import click

from onnxpfp.cli.failure import failing_in_one_line
from onnxpfp.cli.options import Reporting, reporting_options
from onnxpfp.cli.outputs import check_reports, publish
from onnxpfp.errors import InstallationError

__all__ = ["doctor_command"]


@click.command("doctor", short_help="Show what is installed here, and what of it works.")
@click.option(
    "--providers",
    default="cpu",
    metavar="LIST",
    help="Execution providers that must work, as for the other commands: one that does not is a problem.  "
    "[default: cpu]",
)
@reporting_options("N rows of a table")
def doctor_command(providers: str, reporting: Reporting) -> None:
    """Show versions, the execution providers that really work, and what CUDA lacks.

    \b
      onnxpfp doctor
      onnxpfp doctor --providers cuda --json -

    A small network runs on every provider that the installed onnxruntime has, each in a process of
    its own. The exit code is 1 if something is broken: a package cannot be loaded, two packages of
    onnxruntime are installed at once, or one of the --providers does not work.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        reporting.check_rows("row")
        check_reports(reporting, None, {})
        _run(providers, reporting)


def _run(providers: str, reporting: Reporting) -> None:
    from onnxpfp.api.doctor import doctor
    from onnxpfp.cli.terminal import progress_display

    with progress_display(reporting.verbosity) as progress:
        progress("providers", 0, 1)
        report = doctor(providers)
    publish(report, reporting)
    if not report.healthy:
        first, *others = report.problems
        more = f" (and {len(others)} more)" if others else ""
        raise InstallationError(f"{first.text}{more}", hint=first.hint)
