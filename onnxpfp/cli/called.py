"""The command as it was called, which reports tell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

__all__ = ["PROGRAM", "called_as", "note_call"]

PROGRAM = "onnxpfp"
_KEY = f"{PROGRAM}.command"


def note_call(context: click.Context, arguments: Sequence[str]) -> None:
    """Note the arguments of the program, before click takes them apart."""
    context.meta[_KEY] = shlex.join([PROGRAM, *arguments])


def called_as() -> str:
    """Return the command as it was called, quoted for a shell; empty outside of the program."""
    context = click.get_current_context(silent=True)
    return "" if context is None else context.meta.get(_KEY, "")
