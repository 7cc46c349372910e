"""`onnxpfp prunability IN`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import (
    FILE,
    Choice,
    Data,
    Runtime,
    Target,
    choice_options,
    data_options,
    runtime_options,
    verbosity_options,
)
from onnxpfp.cli.prune import options_of
from onnxpfp.errors import OptionError
from onnxpfp.options import Options

__all__ = ["prunability"]

TOP = 40
"""Groups that are shown where nothing else is asked for."""


@click.command("prunability", short_help="Measure how little can be kept, group by group and as a whole.")
@click.argument("source", metavar="IN", type=FILE)
@data_options
@click.option(
    "--tolerance",
    type=float,
    default=0.05,
    show_default=True,
    metavar="X",
    help="Loss that counts as no harm: KL divergence of class scores, relative squared error of other outputs.",
)
@choice_options
@runtime_options
@click.option("--top", type=int, metavar="N", help=f"Most groups, the most fragile first.  [default: {TOP}]")
@click.option("--all", "every", is_flag=True, help="Show every group, as -v does.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON in place of tables, always complete.")
@verbosity_options
def prunability(
    source: Path,
    data: Data,
    tolerance: float,
    choice: Choice,
    runtime: Runtime,
    top: int | None,
    every: bool,
    as_json: bool,
    verbosity: int,
) -> None:
    """Measure the smallest share of the model IN that can be kept within a tolerance, and the curve.

    \b
      onnxpfp prunability in.onnx --calib-data calibration.npz
      onnxpfp prunability in.onnx --calib-data calibration.npz --tolerance 0.01 --json > in.json

    Every group of channels is narrowed alone, and the whole network is pruned to shares of its
    multiply-adds, as `onnxpfp prune` would with the same options. Nothing is written.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        if top is not None and top < 1:
            raise OptionError(f"--top {top} must be at least 1")
        if top is not None and (every or as_json):
            raise OptionError(f"{'--all' if every else '--json'} shows every group, so --top has no meaning with it")
        rows = None if every or verbosity > 0 else top or TOP
        options = options_of(data, Target.none(), choice, runtime)
        _run(source, data, options, tolerance, rows, as_json=as_json, verbosity=verbosity)


def _run(
    source: Path, data: Data, options: Options, tolerance: float, rows: int | None, *, as_json: bool, verbosity: int
) -> None:
    from onnxpfp.api.prunability import prunability_with
    from onnxpfp.cli.input_shapes import parse_shapes
    from onnxpfp.cli.terminal import make_console, progress_display
    from onnxpfp.report.print_prunability import print_prunability
    from onnxpfp.report.print_pruning import print_notes

    shapes = parse_shapes(data.input_shape, source)
    with naming_files(source, data.calib_data, None), progress_display(verbosity) as tell:
        found = prunability_with(
            source, data.calib_data, replace(options, input_shapes=shapes), tolerance=tolerance, progress=tell
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    elif verbosity >= 0:
        print_prunability(found, make_console(), top=rows)
    if verbosity >= 0:
        print_notes(found.notes, make_console(stderr=True))
