"""The files that a run writes: checked before the work, written after it, the model first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxpfp.cli.called import called_as
from onnxpfp.cli.options import STDOUT, Reporting
from onnxpfp.errors import ModelError, OutputError, legible
from onnxpfp.report.formats import FORMATS
from onnxpfp.report.page import Reportable, ReportView

if TYPE_CHECKING:
    from onnxpfp.api.save import WritableResult
    from onnxpfp.pipeline.latency.table import LatencyTable
    from onnxpfp.pipeline.scores.file import ScoresFile

__all__ = [
    "Outputs",
    "check_input",
    "check_outputs",
    "check_reports",
    "check_scores",
    "check_table",
    "keep_others",
    "publish",
    "tell_written",
    "write_result",
    "write_scores",
    "write_table",
]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results of a verb that writes a model go.

    Attributes:
        model: The model.
        plan: The plan, or None.
        force: Whether the model may overwrite the input, and its weights a file that is none of theirs.
    """

    model: Path
    plan: Path | None
    force: bool


def check_input(source: Path) -> None:
    """Make sure that the input is there.

    Raises:
        ModelError: It is not.
    """
    if not source.exists():
        raise ModelError(f"{source}: there is no such file")


def check_outputs(outputs: Outputs, reporting: Reporting, source: Path, read: Mapping[str, Path]) -> None:
    """Make sure that everything can be written and nothing overwrites what is read.

    Args:
        outputs: Where the results go.
        reporting: Where the report goes.
        source: The input model.
        read: Other files that are read, by the flag that names them.

    Raises:
        ModelError: The input does not exist.
        OutputError: A result cannot be written where it should go.
    """
    from onnxpfp.model.save import check_target, keep_weights
    from onnxpfp.model.save_weights import require_own_weights

    check_input(source)
    check_target(outputs.model, source=source, force=outputs.force)
    weights = _weights(source)
    keep_weights(outputs.model, [source, *weights.values()])
    if weights:
        require_own_weights(outputs.model, force=outputs.force)
    _keep_apart("OUT", outputs.model, {**weights, **read})
    keep_others("OUT", outputs.model, "a model")
    taken = {"OUT": outputs.model, **read}
    if outputs.plan is not None:
        check_target(outputs.plan, source=None, force=False)
        # A replayed plan may be written anew: it is read before.
        others = {flag: file for flag, file in taken.items() if flag != "--from-plan"}
        _keep_apart("--plan", outputs.plan, {"IN": source, **weights, **others})
        keep_others("--plan", outputs.plan, "a plan")
        taken["--plan"] = outputs.plan
    check_reports(reporting, source, taken)


def check_reports(reporting: Reporting, source: Path | None, taken: Mapping[str, Path]) -> None:
    """Make sure that reports can be written to files, and overwrite nothing that is read or written.

    Args:
        reporting: Where they go.
        source: The input model; None where there is none.
        taken: Other files that are read or written, by the flag that names them.

    Raises:
        OutputError: One cannot be written there, or its format not at all.
    """
    for name in reporting.files:
        FORMATS[name].check(name)
    shown = [f"--{name}" for name, path in reporting.files.items() if path == STDOUT]
    if len(shown) > 1:
        raise OutputError(f"{' and '.join(shown)} would be one after the other on stdout", hint="name a file for one")
    if not reporting.in_files:
        return
    from onnxpfp.model.save import check_target

    others = {**taken} if source is None else {"IN": source, **_weights(source), **taken}
    for name, path in reporting.files.items():
        if path != STDOUT:
            check_target(path, source=None, force=False)
            _keep_apart(f"--{name}", path, others)
            keep_others(f"--{name}", path, "a report")
            others[f"--{name}"] = path


def check_table(
    output: Path | None, models: Path | None, reporting: Reporting, source: Path, read: Mapping[str, Path]
) -> None:
    """Make sure that a latency table and its models can be written and overwrite nothing that is read.

    Args:
        output: Where the table goes, or None.
        models: The folder of its models, or None.
        reporting: Where the report goes.
        source: The input model.
        read: Other files that are read, by the flag that names them.

    Raises:
        ModelError: The input does not exist.
        OutputError: Something cannot be written where it should go.
    """
    from onnxpfp.model.save import check_folder, check_target

    check_input(source)
    taken = dict(read)
    if output is not None:
        check_target(output, source=None, force=False)
        _keep_apart("--output", output, {"IN": source, **_weights(source), **read})
        keep_others("--output", output, "a table")
        taken["--output"] = output
    if models is not None:
        check_folder(models)
        if any(os.path.realpath(models) == os.path.realpath(file.parent) for file in (source, *read.values())):
            raise OutputError(f"{models}: --models would write beside what is read", hint="name a folder of its own")
    check_reports(reporting, source, taken)


def check_scores(flag: str, path: Path, reporting: Reporting, read: Mapping[str, Path]) -> None:
    """Make sure that scores can be written and overwrite nothing that is read.

    Args:
        flag: The flag that names their file.
        path: Their file.
        reporting: Where the report goes.
        read: Files that are read, by what a message calls them; the first must exist.

    Raises:
        ModelError: The first does not exist.
        OutputError: Something cannot be written where it should go.
    """
    from onnxpfp.model.save import check_target

    first = next(iter(read.values()))
    if not first.exists():
        raise ModelError(f"{first}: there is no such file")
    check_target(path, source=None, force=False)
    _keep_apart(flag, path, {**_weights(first), **read})
    keep_others(flag, path, "scores")
    check_reports(reporting, first, {**read, flag: path})


def publish(
    report: Reportable,
    reporting: Reporting,
    names: Mapping[str, str | None] | None = None,
    first: Callable[[], list[str]] = list,
) -> None:
    """Write a report in all formats that were asked for, show it, and say what the user should know.

    Args:
        report: The report.
        reporting: What was asked for.
        names: Files that it is about, for programs.
        first: Writes what comes before it, and returns the names of these files.

    Raises:
        OutputError: A file cannot be written; the hint lists those that were.
    """
    from onnxpfp.cli.terminal import make_console, unsaid
    from onnxpfp.report.text import as_text, print_notes

    view = ReportView(make_console(), reporting.top, reporting.full, names or {}, called_as())
    texts = [(path, FORMATS[name].render(report, view)) for name, path in reporting.files.items()]
    written = first()
    for path, text in texts:
        if path != STDOUT:
            _write(path, text, written)
    shown = [text for path, text in texts if path == STDOUT]
    if not shown and reporting.verbosity >= 0:
        shown = [as_text(report, view)]
    view.console.file.write("".join(shown))
    view.console.file.flush()
    if reporting.verbosity >= 0:
        print_notes(unsaid(report.notes), make_console(stderr=True))
        tell_written(written)


def tell_written(names: Sequence[str]) -> None:
    """Say on stderr which files were written; nothing where none were."""
    if names:
        click.echo(f"Written: {legible(', '.join(names))}", err=True)


def write_result(result: WritableResult, source: Path, outputs: Outputs, plan: str = "") -> list[str]:
    """Write the model, then the plan if it is asked for; returns their names, and those of files of weights.

    Raises:
        OutputError: One cannot be written; the hint lists those that were.
    """
    from onnxpfp.api.save import save_result

    save_result(result, outputs.model, source=source, force=outputs.force)
    written = [str(outputs.model), *_weights_written(outputs.model)]
    if outputs.plan is not None:
        _write(outputs.plan, plan, written)
    return written


def _weights_written(model: Path) -> list[str]:
    """Return the file of the weights of a model that was written, if it has one."""
    from onnxpfp.model.load import external_files
    from onnxpfp.model.save_weights import weights_beside

    # Most models have none beside them, and need not be read again.
    beside = weights_beside(model)
    return [str(beside)] if beside.exists() and beside in external_files(model) else []


def write_table(table: LatencyTable, output: Path | None) -> list[str]:
    """Write a latency table where it should go; returns the names of what was written.

    Raises:
        OutputError: It cannot be written.
    """
    written: list[str] = []
    if output is not None:
        _write(output, table.to_json(), written)
    return written


def write_scores(scores: ScoresFile, path: Path) -> list[str]:
    """Write scores where they should go; returns the names of what was written.

    Raises:
        OutputError: They cannot be written.
    """
    scores.save(path)
    return [str(path)]


def _write(path: Path, text: str, written: list[str]) -> None:
    """Write a text, and add its name to those of what is written already."""
    from onnxpfp.model.save import save_bytes

    try:
        save_bytes(path, text.encode())
    except OutputError as error:
        if not written:
            raise
        raise OutputError(str(error), hint=f"already written: {', '.join(written)}") from error
    written.append(str(path))


def _weights(source: Path) -> dict[str, Path]:
    """Find the files beside a model in which its weights lie, by what a message calls them."""
    from onnxpfp.model.load import external_files

    return {f"the weights {file.name} of IN": file for file in sorted(external_files(source))}


def _keep_apart(flag: str, path: Path, others: dict[str, Path]) -> None:
    for other, taken in others.items():
        same = os.path.realpath(path) == os.path.realpath(taken)
        if same or (path.exists() and taken.exists() and path.samefile(taken)):
            raise OutputError(f"{path}: {flag} and {other} are the same file", hint=f"give {flag} another name")
        if taken.is_dir() and _among_data(path, taken):
            raise OutputError(
                f"{path}: {flag} would lie among the samples of {other} {taken}", hint="write it into another folder"
            )


def keep_others(flag: str, path: Path, writes: str) -> None:
    """Make sure that a file replaces none of another kind, as where its flag is taken for that of another file.

    Args:
        flag: The flag that names it.
        path: The file.
        writes: What is written into it, of `WRITTEN`.

    Raises:
        OutputError: It would.
    """
    from onnxpfp.runtime.file_kinds import WRITTEN, kind_of

    kind = kind_of(path)
    if kind is not None and kind not in WRITTEN[writes]:
        raise OutputError(
            f"{path}: is {kind.title}, and {flag} would overwrite it", hint=f"{flag} writes {writes}; {kind.use}"
        )


def _among_data(path: Path, folder: Path) -> bool:
    """Return whether a file in a folder of samples would be taken for one of them, or is one."""
    from onnxpfp.data.folders import SAMPLE_SUFFIXES
    from onnxpfp.data.onnx_test_data import data_sets_in

    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    # Of ONNX test data nothing but what has the names of inputs is read.
    return inside and path.suffix.lower() in SAMPLE_SUFFIXES and not data_sets_in(folder)
