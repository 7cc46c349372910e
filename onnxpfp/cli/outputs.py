"""The files that a run writes: checked before the work, written after it, the model first."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxpfp.errors import ModelError, OutputError

if TYPE_CHECKING:
    from onnxpfp.api.prune import Result

__all__ = ["STDOUT", "Outputs", "check_outputs", "check_report", "report_json", "write_outputs", "write_report"]

STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results go.

    Attributes:
        model: The pruned model.
        plan: The plan, or None.
        report: The report as JSON, `STDOUT`, or None.
        force: Whether the model may overwrite the input.
    """

    model: Path
    plan: Path | None
    report: Path | None
    force: bool

    @property
    def report_file(self) -> Path | None:
        """Where the report goes if it goes to a file."""
        return None if self.report == STDOUT else self.report


def check_outputs(outputs: Outputs, source: Path, read: dict[str, Path]) -> None:
    """Make sure that everything can be written and nothing overwrites what is read.

    Args:
        outputs: Where the results go.
        source: The input model.
        read: Other files that are read, by the flag that names them.

    Raises:
        ModelError: The input does not exist.
        OutputError: A result cannot be written where it should go.
    """
    from onnxpfp.model.save import check_target, keep_weights

    if not source.exists():
        raise ModelError(f"{source}: there is no such file")
    check_target(outputs.model, source=source, force=outputs.force)
    weights = _weights(source)
    keep_weights(outputs.model, [source, *weights.values()])
    _keep_apart("OUT", outputs.model, {**weights, **read})
    taken = {"IN": source, **weights, "OUT": outputs.model, **read}
    # A replayed plan may be written anew: it is read before.
    for flag, path, free in (("--plan", outputs.plan, "--from-plan"), ("--json", outputs.report_file, "")):
        if path is not None:
            check_target(path, source=None, force=False)
            _keep_apart(flag, path, {other: file for other, file in taken.items() if other != free})
            taken[flag] = path


def check_report(path: Path | None, source: Path, read: dict[str, Path]) -> None:
    """Make sure that a report can be written to a file, and does not overwrite what is read.

    Args:
        path: The file, `STDOUT`, or None.
        source: The input model.
        read: Other files that are read, by the flag that names them.

    Raises:
        OutputError: It cannot be written there.
    """
    from onnxpfp.model.save import check_target

    if path is not None and path != STDOUT:
        check_target(path, source=None, force=False)
        _keep_apart("--json", path, {"IN": source, **_weights(source), **read})


def write_report(path: Path | None, document: dict[str, Any]) -> bool:
    """Write a report as JSON to a file or to stdout; tells whether stdout is taken by it.

    Raises:
        OutputError: The file cannot be written.
    """
    from onnxpfp.model.save import save_bytes

    if path is None:
        return False
    text = as_json(document)
    if path == STDOUT:
        click.echo(text, nl=False)
        return True
    save_bytes(path, text.encode())
    return False


def as_json(document: dict[str, Any]) -> str:
    """Write a report as JSON."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _weights(source: Path) -> dict[str, Path]:
    """Find the files beside a model in which its weights lie, by what a message calls them."""
    from onnxpfp.model.load import external_files

    return {f"the weights {file.name} of IN": file for file in sorted(external_files(source))}


def _keep_apart(flag: str, path: Path, others: dict[str, Path]) -> None:
    for other, taken in others.items():
        same = os.path.realpath(path) == os.path.realpath(taken)
        if same or (path.exists() and taken.exists() and path.samefile(taken)):
            raise OutputError(f"{path}: {flag} and {other} are the same file", hint=f"give {flag} another name")


def report_json(result: Result, source: Path, outputs: Outputs) -> str:
    """Write the report as JSON, with the names of the files that it is about."""
    document = result.report.to_dict()
    document["input"] = str(source)
    document["output"] = str(outputs.model)
    document["plan"] = None if outputs.plan is None else str(outputs.plan)
    return as_json(document)


def write_outputs(result: Result, source: Path, outputs: Outputs) -> None:
    """Write the model, then the plan, then the report.

    Raises:
        OutputError: One cannot be written; the hint lists those that were.
    """
    from onnxpfp.api.save import save_result
    from onnxpfp.model.save import save_bytes

    texts = {outputs.plan: result.plan.to_json, outputs.report_file: lambda: report_json(result, source, outputs)}
    contents = {path: text().encode() for path, text in texts.items() if path is not None}
    save_result(result, outputs.model, source=source, force=outputs.force)
    written = [str(outputs.model)]
    for path, content in contents.items():
        try:
            save_bytes(path, content)
        except OutputError as error:
            raise OutputError(str(error), hint=f"already written: {', '.join(written)}") from error
        written.append(str(path))
