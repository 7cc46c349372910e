"""Results on stdout, talk on stderr, no decoration in a pipe, and -q and -v: the same for every verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ["--threads", "1"]
RUNS: dict[str, list[str]] = {
    "prune": ["in.onnx", "new.onnx", "--calib-data", "data.npz", "--no-latency", *QUICK],
    "sweep": ["in.onnx", "-o", "models", "--force", "--no-latency", "--round-to", "1", *QUICK],
    "factorize": ["in.onnx", "new.onnx", "--calib-data", "data.npz", "--no-latency", *QUICK],
    "sparsify": ["in.onnx", "new.onnx", "--calib-data", "data.npz", *QUICK],
    "inspect": ["in.onnx", *QUICK],
    "prunability": ["in.onnx", "--calib-data", "data.npz", *QUICK],
    "verify": ["in.onnx", "in.onnx", "--no-latency", *QUICK],
    "latency": ["in.onnx", "--round-to", "3", *QUICK],
    "score": ["in.onnx", "--calib-data", "data.npz", "--save", "new.npz", *QUICK],
    "merge": ["new.npz", "-o", "merged.npz"],
    "doctor": [],
}
BEFORE = {"merge": "score"}
"""The verb that makes what a verb reads."""
verbs = pytest.mark.parametrize("verb", main.commands)


def run(verb: str, *more: str) -> Result:
    if verb in BEFORE:
        run(BEFORE[verb])
    result = CliRunner(env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).invoke(main, [verb, *RUNS[verb], *more])
    assert result.exit_code == 0, result.output
    return result


@verbs
def test_the_result_is_on_stdout_and_notes_on_stderr(folder: Path, verb: str) -> None:
    result = run(verb)
    assert result.stdout.strip()
    assert all(line.startswith(("Note: ", "Written: ")) for line in result.stderr.splitlines()), result.stderr
    assert "\x1b" not in result.output
    assert not any(line != line.rstrip(" ") for line in result.stdout.splitlines())


WRITTEN = {
    "prune": "new.onnx",
    "sweep": "models/in-macs-0.9.onnx, models/in-macs-0.7.onnx, models/in-macs-0.5.onnx",
    "factorize": "new.onnx",
    "sparsify": "new.onnx",
    "score": "new.npz",
    "merge": "merged.npz",
}


@verbs
def test_what_was_written_is_said_last(folder: Path, verb: str) -> None:
    (folder / "models").mkdir()
    before = {file for file in folder.rglob("*") if file.is_file()}
    if verb == "merge":
        run("score", "-q")
        before.add(folder / "new.npz")
    report = [*filter(None, [WRITTEN.get(verb)]), "report.json"]
    result = CliRunner().invoke(main, [verb, *RUNS[verb], "--json", "report.json"])
    assert result.stderr.splitlines()[-1] == f"Written: {', '.join(report)}"
    after = {file for file in folder.rglob("*") if file.is_file()}
    assert {file.relative_to(folder).as_posix() for file in after - before} == {*", ".join(report).split(", ")}
    assert ("Written: " in run(verb).stderr) == (verb in WRITTEN)


@verbs
def test_quiet_says_nothing(folder: Path, verb: str) -> None:
    assert run(verb, "-q").output == ""


@pytest.mark.parametrize("verb", [verb for verb in main.commands if verb != "merge"])
def test_verbose_tells_the_phases_on_stderr(folder: Path, verb: str) -> None:
    result = run(verb, "-v")
    assert result.stderr.splitlines()[0].endswith(" ...")
    assert " ...\n" not in result.stdout
    assert "\x1b" not in result.output


@verbs
def test_for_programs_stdout_has_nothing_else(folder: Path, verb: str) -> None:
    result = run(verb, "--json", "-", "-v")
    assert (result.stdout[0], result.stdout[-2:]) == ("{", "}\n")


def _complete(words: str) -> list[str]:
    environment = {"_ONNXPFP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner(env=environment).invoke(main, [], prog_name="onnxpfp")
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


def test_completion_offers_verbs_options_and_choices() -> None:
    assert {"prune", "prunability"} <= set(_complete("onnxpfp pr")) < set(main.commands)
    assert {"--keep-macs", "--keep-size"} <= set(_complete("onnxpfp prune --keep"))
    assert "--energy" in _complete("onnxpfp factorize --en")
    assert _complete("onnxpfp prune --effort n") == ["normal"]
    assert "--config" in _complete("onnxpfp doctor --")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_lines_for_a_shell_are_printed(shell: str) -> None:
    code = "import sys; sys.argv[0] = 'onnxpfp'; from onnxpfp.cli.main import main; main()"
    environment = {"_ONNXPFP_COMPLETE": f"{shell}_source", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    if shell == "bash" and "Bash version" in done.stderr:
        pytest.skip("bash is too old here, or not there")
    assert done.returncode == 0, done.stderr
    assert f"_ONNXPFP_COMPLETE={shell}_complete" in done.stdout
    assert "onnxpfp" in done.stdout


def test_the_documented_lines_are_those(folder: Path) -> None:
    text = (ROOT / "docs" / "common.md").read_text(encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"_ONNXPFP_COMPLETE={shell}_source onnxpfp" in text
