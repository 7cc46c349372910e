from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cli_models
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxpfp.cli.main import main


@dataclass(frozen=True)
class Refusal:
    """What a refused run printed: the text behind `Error:`, and the one behind `Hint:`."""

    error: str
    hint: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, its data, and an output of an earlier run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    onnx.save(cli_models.chain(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=cli_models.images())
    (tmp_path / "out.onnx").write_bytes(cli_models.EXISTING)
    return tmp_path


@pytest.fixture
def prune(folder: Path) -> Callable[..., Result]:
    """Run the verb in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["prune", *map(str, arguments)])

    return run


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(folder: Path, call: Callable[..., Result]) -> Callable[..., Refusal]:
    def run(*arguments: str | Path, code: int = 1) -> Refusal:
        before = _files(folder)
        result = call(*arguments)
        lines = result.stderr.splitlines()
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert len(lines) in {1, 2}, result.stderr
        assert lines[0].startswith("Error: ")
        assert "bug" not in lines[0]
        assert lines[1:] == [] or lines[1].startswith("Hint: ")
        assert _files(folder) == before
        return Refusal(lines[0].removeprefix("Error: "), "".join(lines[1:]).removeprefix("Hint: "))

    return run


@pytest.fixture
def refuse(folder: Path, prune: Callable[..., Result]) -> Callable[..., Refusal]:
    """Run the verb and make sure that it refuses in one line and touches no file."""
    return _refused(folder, prune)


@pytest.fixture
def inspect(folder: Path) -> Callable[..., Result]:
    """Run `inspect` in the folder."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, ["inspect", *map(str, arguments)])

    return run


@pytest.fixture
def refuse_inspect(folder: Path, inspect: Callable[..., Result]) -> Callable[..., Refusal]:
    """Run `inspect` and make sure that it refuses in one line and touches no file."""
    return _refused(folder, inspect)


@pytest.fixture
def refuse_verb(folder: Path) -> Callable[..., Refusal]:
    """Run a verb, named first, and make sure that it refuses in one line and touches no file."""
    return _refused(folder, lambda *arguments: CliRunner().invoke(main, [*map(str, arguments)]))
