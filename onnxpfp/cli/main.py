"""The program: a group of verbs. A new verb is a file beside this one and a line in `VERBS`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

import onnxpfp
from onnxpfp.cli.called import note_call
from onnxpfp.cli.config import configurable
from onnxpfp.cli.doctor import doctor_command
from onnxpfp.cli.factorize import factorize_command
from onnxpfp.cli.inspect import inspect_command
from onnxpfp.cli.latency import latency_command
from onnxpfp.cli.prunability import prunability_command
from onnxpfp.cli.prune import prune_command
from onnxpfp.cli.sparsify import sparsify_command
from onnxpfp.cli.supervisor import supervised
from onnxpfp.cli.sweep import sweep_command
from onnxpfp.cli.verify import verify_command

__all__ = ["main"]

VERBS: tuple[click.Command, ...] = (
    prune_command,
    sweep_command,
    factorize_command,
    sparsify_command,
    inspect_command,
    prunability_command,
    verify_command,
    latency_command,
    doctor_command,
)


class _Program(click.Group):
    """The group; as a program it works in a process that is watched over."""

    def __call__(self, *args: Any, **given: Any) -> Any:
        """Run as a program."""
        return supervised(partial(super().__call__, *args, **given))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Note how it was called."""
        arguments = [*args]
        context = super().make_context(info_name, args, parent, **extra)
        note_call(context, arguments)
        return context


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(onnxpfp.__version__, prog_name="onnxpfp")
def main() -> None:
    """Provable filter pruning of ONNX graphs: a trained network in, a smaller one with the same interface out.

    \b
      onnxpfp prune in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.6
      onnxpfp sweep in.onnx -o models --calib-data calibration.npz --keep-macs 0.9,0.7,0.5
      onnxpfp factorize in.onnx out.onnx --calib-data calibration.npz --keep-macs 0.7
      onnxpfp sparsify in.onnx out.onnx --calib-data calibration.npz --keep-weights 0.5
      onnxpfp inspect in.onnx
      onnxpfp prunability in.onnx --calib-data calibration.npz
      onnxpfp verify in.onnx out.onnx --calib-data calibration.npz
      onnxpfp latency in.onnx -o table.json
      onnxpfp doctor

    Exit codes: 0 done, 1 something is wrong with model, data or output, 2 usage, 3 the target cannot
    be reached, 4 the result did not pass its verification, 124 --timeout, 128 + n ended by signal n
    (130 is Ctrl-C). No model is written unless it is 0, but for `sweep`, which writes those whose
    target was met.
    """  # noqa: D301


for _verb in VERBS:
    main.add_command(configurable(_verb))
