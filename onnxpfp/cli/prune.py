"""`onnxpfp prune IN OUT`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import (
    FILE,
    Choice,
    Data,
    Output,
    Runtime,
    Target,
    choice_options,
    data_options,
    output_options,
    runtime_options,
    target_options,
    verbosity_options,
)
from onnxpfp.cli.outputs import STDOUT, Outputs, check_outputs, report_json, write_outputs
from onnxpfp.cli.sizes import parse_size
from onnxpfp.errors import OptionError
from onnxpfp.options import Options

if TYPE_CHECKING:
    from onnxpfp.api.prune import Result

__all__ = ["options_of", "prune"]


@dataclass(frozen=True, slots=True)
class _Job:
    """One run of the verb.

    Attributes:
        source: The input model.
        data: Where its samples are, and how many of them to use.
        from_plan: A plan to replay.
        outputs: What is written.
        options: How to prune.
        verbosity: -1 quiet, 0, 1 everything, 2 with tracebacks.
    """

    source: Path
    data: Data
    from_plan: Path | None
    outputs: Outputs
    options: Options
    verbosity: int

    @property
    def data_file(self) -> Path | None:
        """The file of samples, where there is one."""
        given = self.data.calib_data
        return None if given is None or given == "random" else Path(given)


@click.command("prune", short_help="Remove the channels that matter least.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("result", metavar="OUT", type=FILE)
@data_options
@target_options
@choice_options
@runtime_options
@output_options
@verbosity_options
def prune(
    source: Path,
    result: Path,
    data: Data,
    target: Target,
    choice: Choice,
    runtime: Runtime,
    output: Output,
    verbosity: int,
) -> None:
    """Remove the channels of the model IN that matter least and write the smaller model OUT.

    \b
      onnxpfp prune in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.6

    OUT has the same inputs and outputs as IN. It is written only after it has been checked against
    IN, and whole or not at all. Without --calib-data channels are chosen by the weights alone.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        options = options_of(data, target, choice, runtime)
        if output.from_plan is not None and target != Target.none():
            raise OptionError(f"--from-plan says what stays, so {target.flags} has no meaning with it")
        outputs = Outputs(result, output.plan, output.json, output.force)
        _run(_Job(source, data, output.from_plan, outputs, options, verbosity))


def options_of(data: Data, target: Target, choice: Choice, runtime: Runtime) -> Options:
    """Gather what the pipeline wants to know; shapes are read later, for they may need the model.

    Raises:
        OptionError: A value cannot be meant.
    """
    return Options(
        keep_macs=target.keep_macs,
        keep_params=target.keep_params,
        max_drift=target.max_drift,
        min_agreement=target.min_agreement,
        select=choice.select,
        score=choice.score,
        allocate=choice.allocate,
        steps=choice.steps,
        kernel=choice.kernel,
        compensate=choice.compensate,
        delta=choice.delta,
        seed=runtime.seed,
        threads=runtime.threads,
        workspace=parse_size("--workspace", runtime.workspace),
        providers=runtime.providers,
        strict_providers=runtime.strict_providers,
        round_to=choice.round_to,
        min_channels=choice.min_channels,
        attention=choice.attention,
        include=choice.include,
        exclude=choice.exclude,
        samples=data.calib_samples,
        batch_size=data.batch_size,
    )


def _run(job: _Job) -> None:
    """Check, prune, write, and only then talk."""
    from onnxpfp.api.prune import prune_with
    from onnxpfp.cli.input_shapes import parse_shapes
    from onnxpfp.cli.terminal import progress_display
    from onnxpfp.pipeline.plan import Plan

    read = {"--calib-data": job.data_file, "--from-plan": job.from_plan}
    check_outputs(job.outputs, job.source, {flag: path for flag, path in read.items() if path is not None})
    options = replace(job.options, input_shapes=parse_shapes(job.data.input_shape, job.source))
    with naming_files(job.source, job.data.calib_data, job.from_plan), progress_display(job.verbosity) as tell:
        plan = None if job.from_plan is None else Plan.read(job.from_plan)
        # The new weights of a large model wait where they will be written: there is room for them.
        folder = job.outputs.model.parent
        result = prune_with(job.source, job.data.calib_data, options, plan=plan, progress=tell, folder=folder)
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
