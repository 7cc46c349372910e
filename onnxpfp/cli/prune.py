"""`onnxpfp prune IN OUT`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from onnxpfp.cli.commas import CommaCommand
from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.loading import loading
from onnxpfp.cli.options import (
    FILE,
    Reporting,
    Typed,
    certify_option,
    data_files,
    data_option,
    options_of,
    reporting_options,
    scores_option,
    takes,
)
from onnxpfp.cli.outputs import Outputs, check_input, check_outputs, check_reports, publish, write_result
from onnxpfp.errors import OptionError
from onnxpfp.options import Options
from onnxpfp.options.declaration import declared
from onnxpfp.time_limit import limited

__all__ = ["prune_command"]


@click.command("prune", cls=CommaCommand, short_help="Remove the channels that matter least.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("result", metavar="[OUT]", type=FILE, required=False)
@data_option
@certify_option
@takes(Options)
@click.option("--plan", type=FILE, metavar="FILE.json", help="Write what was kept, to replay or map back.")
@click.option("--from-plan", type=FILE, metavar="FILE.json", help="Replay a plan in place of scoring.")
@scores_option
@click.option(
    "--dry-run", is_flag=True, help="Write neither a model nor a plan: report what would be; OUT may be left out."
)
@click.option("--force", is_flag=True, help="Allow OUT to be IN, and an OUT.data that is none of OUT's to be replaced.")
@reporting_options("N rows of a table", "20 groups, 8 reasons")
def prune_command(
    source: Path,
    result: Path | None,
    calib_data: str | None,
    certify_data: str | None,
    typed: Typed,
    plan: Path | None,
    from_plan: Path | None,
    scores: Path | None,
    dry_run: bool,
    force: bool,
    reporting: Reporting,
) -> None:
    """Remove the channels of the model IN that matter least and write the smaller model OUT.

    \b
      onnxpfp prune in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.6

    OUT has the same inputs and outputs as IN. It is written only after it has been checked against
    IN, and whole or not at all. Without --calib-data channels are chosen by the weights alone.
    With --dry-run all of it is done but for the writing.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        # Shapes are read later, for they may need the model.
        table = options_of(Options, typed, None).latency_table
        reporting.check_rows("row")
        _refuse_target(typed, from_plan)
        read = data_files(calib_data, certify_data)
        read |= {} if from_plan is None else {"--from-plan": from_plan}
        read |= {} if scores is None else {"--scores": scores}
        read |= {} if table is None else {"--latency-table": Path(table)}
        outputs = _outputs(result, plan, force=force, dry_run=dry_run)
        if outputs is None:
            check_input(source)
            check_reports(reporting, source, read)
        else:
            check_outputs(outputs, reporting, source, read)
        _run(source, calib_data, certify_data, from_plan, scores, typed, outputs, reporting)


def _outputs(result: Path | None, plan: Path | None, *, force: bool, dry_run: bool) -> Outputs | None:
    """Return where the results go; None where nothing is to be written.

    Raises:
        UsageError: It is not said where.
        OptionError: A plan is to be written and is not.
    """
    if dry_run:
        if plan is not None:
            raise OptionError("--dry-run writes no plan", hint="leave out one of --plan and --dry-run")
        return None
    if result is None:
        raise click.UsageError("Missing argument 'OUT'.", click.get_current_context())
    return Outputs(result, plan, force)


def _refuse_target(typed: Typed, from_plan: Path | None) -> None:
    """Refuse a target beside a plan, which says what stays."""
    targets = [
        option.flag_of(name)
        for name, option in declared(Options)
        if option.section == "target" and typed[name] is not None
    ]
    if from_plan is not None and targets:
        raise OptionError(f"--from-plan says what stays, so {' '.join(targets)} has no meaning with it")


def _run(
    source: Path,
    calib_data: str | None,
    certify_data: str | None,
    from_plan: Path | None,
    scores: Path | None,
    typed: Typed,
    outputs: Outputs | None,
    reporting: Reporting,
) -> None:
    """Prune, write, and only then talk."""
    with loading():
        from onnxpfp.api.prune import prune_with
        from onnxpfp.cli.terminal import progress_display
        from onnxpfp.pipeline.plan import Plan

    options = options_of(Options, typed, source)
    with (
        naming_files(source, calib_data, from_plan),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        plan = None if from_plan is None else Plan.read(from_plan)
        # The new weights of a large model wait where they will be written: there is room for them.
        folder = None if outputs is None else outputs.model.parent
        result = prune_with(
            source,
            calib_data,
            options,
            certification=certify_data,
            plan=plan,
            scores=scores,
            progress=progress,
            folder=folder,
        )
    if outputs is None:
        publish(result.report, reporting, {"input": str(source), "output": None, "plan": None})
        if reporting.verbosity >= 0:
            click.echo(f"dry run: nothing written{' but the report' if reporting.in_files else ''}", err=True)
        return
    names = {"input": source, "output": outputs.model, "plan": outputs.plan}
    texts = {name: None if path is None else str(path) for name, path in names.items()}
    publish(result.report, reporting, texts, partial(write_result, result, source, outputs, result.plan.to_json()))
