"""A format of reports is one function in one table: every verb has its flag then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.cli.options import Reporting, reporting_options
from onnxpfp.cli.outputs import publish
from onnxpfp.report import formats
from onnxpfp.report.page import Reportable, ReportView, Table


def as_lines(report: Reportable, view: ReportView) -> str:
    """A format that shows every cell on a line of its own."""
    tables = [element for element in report.page(full=True, wide=True) if isinstance(element, Table)]
    return "".join(f"{cell}\n" for table in tables for row in table.rows for cell in row)


@pytest.fixture
def verb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A verb in a program that knows one format more."""
    monkeypatch.setitem(formats.FORMATS, "lines", formats.Format(as_lines, "LINES"))  # type: ignore[arg-type]

    @click.command()
    @reporting_options("rows")
    def command(reporting: Reporting) -> None:
        publish(onnxpfp.inspect("in.onnx"), reporting)

    return lambda *arguments: CliRunner().invoke(command, arguments)


def test_a_format_brings_its_flag(folder: Path, verb: Callable[..., Result]) -> None:
    assert "--lines FILE|- Write the report as LINES" in " ".join(verb("--help").output.split())
    result = verb("--lines", "r.txt", "--json", "r.json")
    assert result.stdout == verb().stdout
    assert "w1\n6\n378\n" in (folder / "r.txt").read_text()
    assert json.loads((folder / "r.json").read_text())["groups"][0]["name"] == "w1"
    assert verb("--lines", "-").stdout == (folder / "r.txt").read_text()


@pytest.mark.parametrize("name", ["prune", "inspect", "prunability", "verify"])
def test_all_verbs_report_by_the_same_flags(name: str) -> None:
    flags = {flag for parameter in main.commands[name].params for flag in parameter.opts}
    assert {"--top", "--all", *(f"--{known}" for known in formats.FORMATS), "-q", "-v"} <= flags


def test_prune_shows_so_many_rows(prune: Callable[..., Result], refuse: Callable[..., Any]) -> None:
    path = Path(__file__).parents[2] / "models" / "fmnist_resnet.onnx"
    one, default, every = (
        prune(path, "new.onnx", "--no-latency", *flags).stdout for flags in (("--top", "1"), (), ("--all",))
    )
    assert one.count("more groups; -v shows all") == 1
    assert len(one.splitlines()) < len(default.splitlines()) <= len(every.splitlines())
    assert "shows all" not in every
    assert refuse("in.onnx", "out.onnx", "--top", "0", code=2).error == "--top 0 must be at least 1"
