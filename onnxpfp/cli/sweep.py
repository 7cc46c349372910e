"""`onnxpfp sweep IN -o DIR`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxpfp.cli.commas import CommaCommand
from onnxpfp.cli.failure import failing_in_one_line, naming_files
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
from onnxpfp.errors import OutputError, TargetUnreachableError, VerificationError
from onnxpfp.options.sweep import SweepOptions, SweepTarget
from onnxpfp.time_limit import limited

if TYPE_CHECKING:
    from onnxpfp.api.prune import Result

__all__ = ["sweep_command"]


@click.command("sweep", cls=CommaCommand, short_help="Prune to several targets with one calibration.")
@click.argument("source", metavar="IN", type=FILE)
@click.option("--output", "-o", "folder", type=FILE, metavar="DIR", required=True, help="The folder of the models.")
@data_option
@certify_option
@takes(SweepOptions)
@scores_option
@click.option("--force", is_flag=True, help="Allow models that are there already to be overwritten.")
@reporting_options("N rows of a table")
def sweep_command(
    source: Path,
    folder: Path,
    calib_data: str | None,
    certify_data: str | None,
    typed: Typed,
    scores: Path | None,
    force: bool,
    reporting: Reporting,
) -> None:
    """Prune the model IN to several targets, and write a model for each into the folder DIR.

    \b
      onnxpfp sweep in.onnx -o models --calib-data calibration.npz --keep-macs 0.9,0.7,0.5

    Each model is that of `onnxpfp prune` with this target alone, but what does not depend on the
    target is measured once. It is called after IN and the target, such as in-macs-0.7.onnx, and is
    written as soon as it has been checked, whole or not at all. Where a target cannot be met the
    others are written, and the exit code is that of prune for it: 3, or 4 if a model did not pass
    its verification.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        # Shapes are read later, for they may need the model.
        asked = options_of(SweepOptions, typed, None)
        reporting.check_rows("row")
        read = data_files(calib_data, certify_data)
        read |= {} if scores is None else {"--scores": scores}
        read |= {} if asked.latency_table is None else {"--latency-table": Path(asked.latency_table)}
        models = {target.title: folder / f"{source.stem}-{target.title}.onnx" for target in asked.targets}
        _check(models, folder, reporting, source, read, force=force)
        _run(source, calib_data, certify_data, scores, typed, _Models(source, models, force), reporting)


@dataclass(frozen=True, slots=True)
class _Models:
    """The files that a sweep writes.

    Attributes:
        source: The input.
        files: Where the models go, by what was asked for.
        force: Whether they may overwrite what is there.
        written: Those that are written.
    """

    source: Path
    files: Mapping[str, Path]
    force: bool
    written: list[str] = field(default_factory=list[str])

    def take(self, target: SweepTarget, result: Result) -> str:
        """Write a model; returns where.

        Raises:
            OutputError: It cannot be written; the hint lists those that were.
        """
        file = self.files[target.title]
        try:
            file.parent.mkdir(exist_ok=True)
            write_result(result, self.source, Outputs(file, None, self.force))
        except OutputError as error:
            if not self.written:
                raise
            raise OutputError(str(error), hint=f"already written: {', '.join(self.written)}") from error
        self.written.append(str(file))
        return str(file)


def _check(
    models: Mapping[str, Path],
    folder: Path,
    reporting: Reporting,
    source: Path,
    read: Mapping[str, Path],
    *,
    force: bool,
) -> None:
    """Make sure that all models can be written, and overwrite nothing unasked.

    Raises:
        ModelError: The input does not exist.
        OutputError: One cannot be written, or is there already.
    """
    from onnxpfp.model.save import check_folder

    check_input(source)
    check_folder(folder)
    there = [file for file in models.values() if file.exists()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise OutputError(f"{there[0]}{more}: there already", hint="name another folder, or --force to overwrite")
    if not folder.is_dir():
        check_reports(reporting, source, read)
        return
    quiet = Reporting({}, None, every=False, verbosity=0)
    for file in models.values():
        check_outputs(Outputs(file, None, force), quiet, source, read)
    check_reports(reporting, source, {**read, **{f"the model {file.name}": file for file in models.values()}})


def _run(
    source: Path,
    calib_data: str | None,
    certify_data: str | None,
    scores: Path | None,
    typed: Typed,
    models: _Models,
    reporting: Reporting,
) -> None:
    """Prune and write one model after the other, and only then talk."""
    from onnxpfp.api.sweep import sweep_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(SweepOptions, typed, source)
    with (
        naming_files(source, calib_data, None),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        sweep = partial(sweep_with, source, calib_data, options, models.take)
        # The folder of the models need not be there yet.
        folder = next(iter(models.files.values())).parent
        new_weights = folder if folder.is_dir() else folder.parent
        report = sweep(certification=certify_data, scores=scores, progress=progress, folder=new_weights)
    publish(report, reporting, {"input": str(source)}, lambda: models.written)
    missing = [each for each in report.models if each.report is None]
    if missing:
        worst = max(missing, key=lambda each: each.exit_code)
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        kind = VerificationError if worst.exit_code == VerificationError.exit_code else TargetUnreachableError
        raise kind(f"{source}: no model for {worst.title}{more}: {worst.reason}")
