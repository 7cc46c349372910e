"""`onnxpfp prune IN OUT`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Typed, data_file, data_option, json_option, options_of, takes, verbosity_options
from onnxpfp.cli.outputs import STDOUT, Outputs, check_outputs, report_json, write_outputs
from onnxpfp.errors import OptionError
from onnxpfp.options import Options, declared

if TYPE_CHECKING:
    from onnxpfp.api.prune import Result

__all__ = ["prune_command"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One run of the verb.

    Attributes:
        source: The input model.
        calib_data: The file of its samples, the word "random", or None.
        from_plan: A plan to replay.
        outputs: The files that are written.
        options: How to prune.
        verbosity: -1 quiet, 0, 1 everything, 2 with tracebacks.
    """

    source: Path
    calib_data: str | None
    from_plan: Path | None
    outputs: Outputs
    options: Options
    verbosity: int

    @property
    def files_read(self) -> dict[str, Path]:
        """The files that are read beside the model, by the flag that names them."""
        plan = {} if self.from_plan is None else {"--from-plan": self.from_plan}
        return {**data_file(self.calib_data), **plan}


@click.command("prune", short_help="Remove the channels that matter least.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("result", metavar="OUT", type=FILE)
@data_option
@takes(Options)
@click.option("--plan", type=FILE, metavar="FILE.json", help="Write what was kept, to replay or map back.")
@click.option("--from-plan", type=FILE, metavar="FILE.json", help="Replay a plan in place of scoring.")
@json_option
@click.option("--force", is_flag=True, help="Allow OUT to be IN.")
@verbosity_options
def prune_command(
    source: Path,
    result: Path,
    calib_data: str | None,
    typed: Typed,
    plan: Path | None,
    from_plan: Path | None,
    json_file: Path | None,
    force: bool,
    verbosity: int,
) -> None:
    """Remove the channels of the model IN that matter least and write the smaller model OUT.

    \b
      onnxpfp prune in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.6

    OUT has the same inputs and outputs as IN. It is written only after it has been checked against
    IN, and whole or not at all. Without --calib-data channels are chosen by the weights alone.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        # Shapes are read later, for they may need the model.
        options = options_of(Options, typed, None)
        _refuse_target(typed, from_plan)
        job = _Job(source, calib_data, from_plan, Outputs(result, plan, json_file, force), options, verbosity)
        _run(job, typed)


def _refuse_target(typed: Typed, from_plan: Path | None) -> None:
    """Refuse a target beside a plan, which says what stays."""
    targets = [
        option.flag_of(name)
        for name, option in declared(Options)
        if option.section == "target" and typed[name] is not None
    ]
    if from_plan is not None and targets:
        raise OptionError(f"--from-plan says what stays, so {' '.join(targets)} has no meaning with it")


def _run(job: _Job, typed: Typed) -> None:
    """Check, prune, write, and only then talk."""
    from onnxpfp.api.prune import prune_with
    from onnxpfp.cli.terminal import progress_display
    from onnxpfp.pipeline.plan import Plan

    check_outputs(job.outputs, job.source, job.files_read)
    options = options_of(Options, typed, job.source)
    with naming_files(job.source, job.calib_data, job.from_plan), progress_display(job.verbosity) as tell:
        plan = None if job.from_plan is None else Plan.read(job.from_plan)
        # The new weights of a large model wait where they will be written: there is room for them.
        folder = job.outputs.model.parent
        result = prune_with(job.source, job.calib_data, options, plan=plan, progress=tell, folder=folder)
    write_outputs(result, job.source, job.outputs)
    _show(result, job)


def _show(result: Result, job: _Job) -> None:
    """Print the result on stdout and the notes on stderr."""
    from onnxpfp.cli.terminal import make_console
    from onnxpfp.report.print_pruning import print_notes, print_report

    if job.outputs.report == STDOUT:
        click.echo(report_json(result, job.source, job.outputs), nl=False)
    elif job.verbosity >= 0:
        print_report(result.report, make_console(), full=job.verbosity > 0)
    if job.verbosity >= 0:
        print_notes(result.report.notes, make_console(stderr=True))
