"""Every failure is one line on stderr and an exit code; a traceback only where it is asked for."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from onnxpfp.errors import (
    CalibrationError,
    CertificationError,
    ModelError,
    OnnxPfpError,
    PlanError,
    TargetUnreachableError,
    TimeLimitError,
    legible,
)
from onnxpfp.supervision import tell

__all__ = ["failing_in_one_line", "naming_files"]

INTERRUPTED = 130
FAILED = 1


@contextmanager
def failing_in_one_line(*, verbosity: int) -> Generator[None]:
    """Turn what goes wrong inside into `Error: ...`, `Hint: ...` and an exit code.

    Raises:
        click.exceptions.Exit: With the code of the error.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except KeyboardInterrupt as error:
        raise _failed("interrupted", "", INTERRUPTED, verbosity) from error
    except OnnxPfpError as error:
        raise _failed(str(error), error.hint, error.exit_code, verbosity) from error
    except MemoryError as error:
        hint = "a smaller --workspace or --batch-size needs less"
        raise _failed("out of memory", hint, FAILED, verbosity) from error
    except OSError as error:
        raise _failed(f"{type(error).__name__}: {error}", "", FAILED, verbosity) from error
    except Exception as error:
        message = f"this is a bug of onnxpfp: {type(error).__name__}: {error}"
        raise _failed(message, "report it with what -vv prints", FAILED, verbosity) from error


def _failed(message: str, hint: str, code: int, verbosity: int) -> click.exceptions.Exit:
    """Print the failure that is being handled."""
    if verbosity > 1:
        click.echo(traceback.format_exc(), err=True)
    click.echo(f"Error: {_fold(message)}", err=True)
    if hint:
        click.echo(f"Hint: {_fold(hint)}", err=True)
    tell("told")
    return click.exceptions.Exit(code)


def _fold(text: str) -> str:
    return " ".join(legible(text).split())


@contextmanager
def naming_files(model: Path, data: str | None, plan: Path | None, other: Path | None = None) -> Generator[None]:
    """Put the name of the file before an error that does not say which one is wrong.

    Args:
        model: The model, which errors of models are of.
        data: The samples, as they were given.
        plan: The plan that is read.
        other: Another model, which its errors name themselves.

    Raises:
        OnnxPfpError: As it came, with the name.
    """
    try:
        yield
    except OnnxPfpError as error:
        subject: str | None = None
        if isinstance(error, CalibrationError) and not isinstance(error, CertificationError):
            subject = "--calib-data random" if data == "random" else data
        elif isinstance(error, PlanError):
            subject = None if plan is None else str(plan)
        elif isinstance(error, ModelError | TargetUnreachableError | TimeLimitError):
            subject = str(model)
        named = (subject, other) if isinstance(error, ModelError) else (subject,)
        if subject is None or any(str(file) in str(error) for file in named if file is not None):
            raise
        raise type(error)(f"{subject}: {error}", hint=error.hint) from error
