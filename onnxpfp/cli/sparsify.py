"""`onnxpfp sparsify IN OUT`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import Outputs, check_outputs, publish, write_result
from onnxpfp.errors import OptionError
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.time_limit import limited

__all__ = ["sparsify_command"]

_CHOOSES = ("keep_weights", "select", "positions")
"""Options that a plan takes the place of."""


@click.command("sparsify", short_help="Set the single weights that matter least to zero.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("result", metavar="OUT", type=FILE)
@data_option
@takes(SparsifyOptions)
@click.option("--plan", type=FILE, metavar="FILE.json", help="Write which weights stay, to replay or map back.")
@click.option("--from-plan", type=FILE, metavar="FILE.json", help="Replay a plan in place of a choice.")
@click.option("--force", is_flag=True, help="Allow OUT to be IN, and an OUT.data that is none of OUT's to be replaced.")
@reporting_options("N rows of a table", "40 layers, 8 reasons")
def sparsify_command(
    source: Path,
    result: Path,
    calib_data: str | None,
    typed: Typed,
    plan: Path | None,
    from_plan: Path | None,
    force: bool,
    reporting: Reporting,
) -> None:
    """Set the weights of the model IN to zero that matter least and write the model OUT.

    \b
      onnxpfp sparsify in.onnx out.onnx --calib-data calibration.npz --keep-weights 0.5

    OUT has the same inputs, outputs and shapes as IN; its weights have zeros. It is written only
    after it has been checked against IN, and whole or not at all. Zeros make the file smaller once
    it is compressed, and no run faster. Weights are chosen by their sensitivities (SiPP).
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        options_of(SparsifyOptions, typed, None)
        reporting.check_rows("row")
        _refuse_choice(typed, from_plan)
        read = data_files(calib_data) | ({} if from_plan is None else {"--from-plan": from_plan})
        outputs = Outputs(result, plan, force)
        check_outputs(outputs, reporting, source, read)
        _run(source, calib_data, from_plan, typed, outputs, reporting)


def _refuse_choice(typed: Typed, from_plan: Path | None) -> None:
    """Refuse what says how to choose beside a plan, which says what stays."""
    given = [f"--{name.replace('_', '-')}" for name in _CHOOSES if typed[name] is not None]
    if from_plan is not None and given:
        raise OptionError(f"--from-plan says what stays, so {' '.join(given)} has no meaning with it")


def _run(
    source: Path, calib_data: str | None, from_plan: Path | None, typed: Typed, outputs: Outputs, reporting: Reporting
) -> None:
    """Sparsify, write, and only then talk."""
    from onnxpfp.api.sparsify import sparsify_with
    from onnxpfp.cli.terminal import progress_display
    from onnxpfp.pipeline.sparse_plan import SparsePlan

    options = options_of(SparsifyOptions, typed, source)
    with (
        naming_files(source, calib_data, from_plan),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        plan = None if from_plan is None else SparsePlan.read(from_plan)
        folder = outputs.model.parent
        result = sparsify_with(source, calib_data, options, plan=plan, progress=progress, folder=folder)
    names = {"input": str(source), "output": str(outputs.model)}
    names |= {} if outputs.plan is None else {"plan": str(outputs.plan)}
    publish(result.report, reporting, names, partial(write_result, result, source, outputs, result.plan.to_json()))
