"""`onnxpfp score IN`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Reporting, Typed, data_files, data_option, options_of, reporting_options, takes
from onnxpfp.cli.outputs import check_scores, publish, write_scores
from onnxpfp.options.scores import ScoreOptions
from onnxpfp.time_limit import limited

__all__ = ["score_command"]


@click.command("score", short_help="Measure scores once, to prune to any number of targets by them.")
@click.argument("source", metavar="IN", type=FILE)
@data_option
@takes(ScoreOptions)
@click.option(
    "--save", type=FILE, metavar="FILE.npz", required=True, help="Write the scores, for --scores of prune and sweep."
)
@reporting_options("N groups", "20")
def score_command(source: Path, calib_data: str | None, typed: Typed, save: Path, reporting: Reporting) -> None:
    """Measure the sensitivities of the model IN, and the sums that widths and refits are chosen by.

    \b
      onnxpfp score in.onnx --calib-data calibration.npz --save scores.npz
      onnxpfp score in.onnx --calib-data calibration.npz --save 1.npz --shard 1/4

    `onnxpfp prune --scores scores.npz` prunes by them; `onnxpfp merge` makes one file of all shards,
    which may be measured on several machines at the same time. No model is written.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        options_of(ScoreOptions, typed, None)
        reporting.check_rows("group")
        check_scores("--save", save, reporting, {"IN": source, **data_files(calib_data)})
        _run(source, calib_data, typed, save, reporting)


def _run(source: Path, calib_data: str | None, typed: Typed, save: Path, reporting: Reporting) -> None:
    from onnxpfp.api.measure_scores import score_with
    from onnxpfp.cli.terminal import progress_display

    options = options_of(ScoreOptions, typed, source)
    with (
        naming_files(source, calib_data, None),
        limited(options.timeout),
        progress_display(reporting.verbosity) as progress,
    ):
        report = score_with(source, calib_data, options, progress=progress, title=str(save))
    publish(report, reporting, {"scores": str(save)}, lambda: write_scores(report.scores, save))
