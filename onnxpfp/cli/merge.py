"""`onnxpfp merge FILES -o OUT`."""

from __future__ import annotations

from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line
from onnxpfp.cli.options import FILE, Reporting, reporting_options
from onnxpfp.cli.outputs import check_scores, publish, write_scores

__all__ = ["merge_command"]


@click.command("merge", short_help="Merge the scores of shards into one file.")
@click.argument("files", metavar="FILE.npz...", type=FILE, nargs=-1, required=True)
@click.option("--output", "-o", type=FILE, metavar="FILE.npz", required=True, help="Write the merged scores.")
@reporting_options("N groups", "20")
def merge_command(files: tuple[Path, ...], output: Path, reporting: Reporting) -> None:
    """Merge files of `onnxpfp score`, of shards of one set of samples or of several sets, into one.

    \b
      onnxpfp merge 1.npz 2.npz 3.npz 4.npz -o scores.npz

    They must be of one network and have been measured alike, and have no sample in common. The
    order makes no difference. Neither the model nor the samples are needed.
    """  # noqa: D301
    with failing_in_one_line(verbosity=reporting.verbosity):
        reporting.check_rows("group")
        check_scores("--output", output, reporting, {str(file): file for file in files})
        _run(files, output, reporting)


def _run(files: tuple[Path, ...], output: Path, reporting: Reporting) -> None:
    from onnxpfp.api.merge_scores import merge_with

    report = merge_with(files, str(output))
    publish(report, reporting, {"scores": str(output)}, lambda: write_scores(report.scores, output))
