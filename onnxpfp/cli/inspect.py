"""`onnxpfp inspect IN`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxpfp.cli.failure import failing_in_one_line, naming_files
from onnxpfp.cli.options import FILE, Scope, scope_options, verbosity_options
from onnxpfp.errors import OptionError

__all__ = ["inspect"]

TOP = 40
"""Rows of a table where nothing else is asked for."""


@click.command("inspect", short_help="Show what could be pruned, and why the rest stays.")
@click.argument("source", metavar="IN", type=FILE)
@scope_options
@click.option("--top", type=int, metavar="N", help=f"Most rows of a table, the most expensive first.  [default: {TOP}]")
@click.option("--all", "every", is_flag=True, help="Show every row, as -v does.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON in place of tables, always complete.")
@verbosity_options
def inspect(source: Path, scope: Scope, top: int | None, every: bool, as_json: bool, verbosity: int) -> None:
    """Show the groups of channels of the model IN, what lies behind each, and what stays and why.

    \b
      onnxpfp inspect in.onnx
      onnxpfp inspect in.onnx --json > in.json

    No data are needed, and nothing is written. A group is pruned as `onnxpfp prune` decides; what it
    would save if nothing of it stayed is shown in parameters and multiply-adds.
    """  # noqa: D301
    with failing_in_one_line(verbosity=verbosity):
        if top is not None and top < 1:
            raise OptionError(f"--top {top} must be at least 1")
        if top is not None and (every or as_json):
            raise OptionError(f"{'--all' if every else '--json'} shows every row, so --top has no meaning with it")
        rows = None if every or verbosity > 0 else top or TOP
        _run(source, scope, rows, as_json=as_json, verbosity=verbosity)


def _run(source: Path, scope: Scope, rows: int | None, *, as_json: bool, verbosity: int) -> None:
    from onnxpfp.api.inspect import inspect as inspect_model
    from onnxpfp.cli.input_shapes import parse_shapes
    from onnxpfp.cli.terminal import make_console, progress_display
    from onnxpfp.report.print_inspection import print_inspection

    shapes = parse_shapes(scope.input_shape, source)
    with naming_files(source, None, None), progress_display(verbosity) as tell:
        tell("channels", 0, 1)
        found = inspect_model(
            source, input_shapes=shapes, attention=scope.attention, include=scope.include, exclude=scope.exclude
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    elif verbosity >= 0:
        print_inspection(found, make_console(), top=rows)
