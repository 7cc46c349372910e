"""`onnxpfp doctor`: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.installation import ProviderState, SupportedFiles
from onnxpfp.report.doctor import DoctorReport, Problem

STATES = (
    ProviderState("CUDAExecutionProvider", False, "cuDNN 9 is missing", "get it"),
    ProviderState("CPUExecutionProvider", True),
)


def report(*problems: Problem, cuda: str = "cuDNN 9 is missing") -> DoctorReport:
    return DoctorReport(
        versions={"onnxpfp": "1.2", "python": "3.11", "onnxruntime-gpu": "1.31"},
        platform="Linux",
        device="a processor, 2 cores",
        runtimes=("onnxruntime-gpu",),
        providers=STATES,
        written=SupportedFiles(28, 14),
        loaded=SupportedFiles(26, 13),
        cuda=cuda,
        problems=problems,
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[DoctorReport]:
    """What is found out; the asked providers are noted behind it."""
    reports = [report()]
    monkeypatch.setattr("onnxpfp.api.doctor.doctor", lambda providers: reports[0])
    return reports


def test_versions_providers_and_files(found: list[DoctorReport]) -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert (result.exit_code, result.stderr) == (0, "")
    shown = " ".join(result.stdout.split())
    assert shown.startswith("onnxpfp 1.2: works platform Linux device a processor, 2 cores versions python 3.11, ")
    assert "onnx writes opset 28, IR version 14, and older ones" in shown
    assert "onnxruntime loads opset 26, IR version 13, and older ones" in shown
    assert "CUDA cuDNN 9 is missing Execution providers" in shown
    assert "CUDAExecutionProvider no cuDNN 9 is missing (get it) CPUExecutionProvider yes" in shown
    found[0] = report(cuda="")
    assert "CUDA works" in " ".join(CliRunner().invoke(main, ["doctor"]).stdout.split())


def test_what_is_broken_is_told_and_is_the_exit_code(found: list[DoctorReport]) -> None:
    found[0] = report(Problem("two are installed", "remove one"), Problem("numpy cannot be loaded", ""))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    assert shown.startswith("onnxpfp 1.2: 2 broken")
    assert shown.endswith("What is broken two are installed: remove one numpy cannot be loaded")
    assert result.stderr == "Error: two are installed (and 1 more)\nHint: remove one\n"


def test_the_report_as_json(found: list[DoctorReport], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json", "-"])
    document = json.loads(result.stdout)
    assert (document["format"], document["healthy"], document["problems"]) == ("onnxpfp-doctor", True, [])
    assert document["loaded"] == {"opset": 26, "ir_version": 13}
    assert document["providers"][1] == {"name": "CPUExecutionProvider", "works": True, "reason": "", "hint": ""}
    file = tmp_path / "doctor.json"
    assert CliRunner().invoke(main, ["doctor", "--json", str(file)]).exit_code == 0
    assert json.loads(file.read_text()) == document
    missing = CliRunner().invoke(main, ["doctor", "--json", str(tmp_path / "none" / "doctor.json")])
    assert (missing.exit_code, missing.stdout) == (1, "")


def test_here_it_works() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"onnxpfp {onnxpfp.__version__}: works\n")
    unknown = CliRunner().invoke(main, ["doctor", "--providers", "cudda"])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("Error: unknown execution provider 'cudda'\nHint: did you mean cuda?")


def test_quiet_says_nothing_but_errors(found: list[DoctorReport]) -> None:
    assert CliRunner().invoke(main, ["doctor", "-q"]).output == ""
    found[0] = report(Problem("two are installed", ""))
    result = CliRunner().invoke(main, ["doctor", "-q"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: two are installed\n")
