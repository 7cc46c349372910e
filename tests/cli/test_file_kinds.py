"""Files of one kind in the place of another: what they are, and which option takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from onnxpfp.cli.main import main
from onnxpfp.pipeline import plan, sparse_plan
from onnxpfp.pipeline.latency import table
from onnxpfp.pipeline.scores import file
from onnxpfp.runtime.file_kinds import WRITTEN, kind_of

KINDS = {
    "in.onnx": ("an ONNX model", "models are given without an option: onnxpfp prune IN OUT"),
    "data.npz": ("a file of arrays", "--calib-data takes samples in such a file"),
    "x.npy": ("a file of arrays", "--calib-data takes samples in such a file"),
    "scores.npz": ("a file of scores of onnxpfp", "--scores takes it"),
    "plan.json": ("a plan of onnxpfp", "--from-plan takes it"),
    "sparse.json": ("a plan of onnxpfp sparsify", "--from-plan of onnxpfp sparsify takes it"),
    "table.json": ("a latency table of onnxpfp", "--latency-table takes it"),
    "report.json": ("a report of onnxpfp", "reports are for reading, no option takes one"),
    "verified.json": ("a report of onnxpfp", "reports are for reading, no option takes one"),
    "report.html": ("a page (HTML)", "reports are for reading, no option takes one"),
}
TAKES = {
    "--calib-data": (("data.npz", "x.npy"), "samples"),
    "--scores": (("scores.npz",), "a file of scores"),
    "--from-plan": (("plan.json",), "a plan of onnxpfp"),
    "--latency-table": (("table.json",), "a latency table of onnxpfp"),
    "IN": (("in.onnx",), "an ONNX model"),
}


@pytest.fixture
def files(folder: Path) -> Path:
    """A file of every kind, as the verbs write them."""
    data = ["--calib-data", "data.npz", "--threads", "1"]
    for typed in (
        ["score", "in.onnx", *data, "--save", "scores.npz"],
        ["prune", "in.onnx", "cut.onnx", *data, "--no-latency", "--plan", "plan.json", "--json", "report.json"],
        ["sparsify", "in.onnx", "less.onnx", *data, "--plan", "sparse.json", "--report", "report.html"],
        ["latency", "in.onnx", "--round-to", "3", "-o", "table.json", "--models", "points"],
        ["verify", "in.onnx", "cut.onnx", *data, "--no-latency", "--json", "verified.json"],
    ):
        result = CliRunner().invoke(main, [*typed, "-q"])
        assert result.exit_code == 0, result.output
    np.save(folder / "x.npy", np.load(folder / "data.npz")["x"])
    return folder


def test_what_is_given_is_told_with_the_option_that_takes_it(files: Path, refuse: Callable[..., Any]) -> None:
    for flag, (own, wanted) in TAKES.items():
        for name, (title, use) in KINDS.items():
            if name in own:
                continue
            more = ["--keep-latency", "0.9"] if flag == "--latency-table" else []
            found = refuse(name, "new.onnx") if flag == "IN" else refuse("in.onnx", "new.onnx", flag, name, *more)
            assert found.error == f"{name}: is {title}, not {wanted}", flag
            assert found.hint == use


def test_certifying_data_and_other_verbs_say_it_too(files: Path, refuse: Callable[..., Any]) -> None:
    found = refuse("in.onnx", "new.onnx", "--calib-data", "data.npz", "--certify-data", "scores.npz")
    assert found.error == "--certify-data: scores.npz: is a file of scores of onnxpfp, not samples"
    for verb, wanted in (("sparsify", "a plan of onnxpfp sparsify"), ("verify", "a plan of onnxpfp")):
        flag = "--plan" if verb == "verify" else "--from-plan"
        result = CliRunner().invoke(
            main, [verb, "in.onnx", "cut2.onnx" if verb == "sparsify" else "cut.onnx", flag, "scores.npz"]
        )
        assert result.stderr.startswith(f"Error: scores.npz: is a file of scores of onnxpfp, not {wanted}\n")


def test_a_plan_is_written_over_nothing_else(files: Path, refuse: Callable[..., Any]) -> None:
    """Who means --from-plan, or another option, loses no file."""
    found = refuse("in.onnx", "new.onnx", "--plan", "data.npz")
    assert found.error == "data.npz: is a file of arrays, and --plan would overwrite it"
    assert found.hint == "--plan writes a plan; --calib-data takes samples in such a file"
    typed = ["prune", "in.onnx", "new.onnx", "--plan", "plan.json", "--no-latency", "-q"]
    assert CliRunner().invoke(main, typed).exit_code == 0


@pytest.mark.parametrize(
    ("flag", "typed", "writes"),
    [
        ("OUT", ("prune", "in.onnx"), "a model"),
        ("OUT", ("factorize", "in.onnx"), "a model"),
        ("--plan", ("sparsify", "in.onnx", "new.onnx", "--plan"), "a plan"),
        ("--json", ("inspect", "in.onnx", "--json"), "a report"),
        ("--report", ("verify", "in.onnx", "cut.onnx", "--report"), "a report"),
        ("--save-config", ("inspect", "in.onnx", "--save-config"), "options"),
        ("--output", ("latency", "in.onnx", "--output"), "a table"),
        ("--save", ("score", "in.onnx", "--calib-data", "x.npy", "--save"), "scores"),
    ],
)
def test_nothing_is_written_over_a_file_of_another_kind(
    flag: str, typed: tuple[str, ...], writes: str, files: Path
) -> None:
    """Who forgets --calib-data, and so names the samples as OUT, keeps them."""
    for name, (title, use) in KINDS.items():
        if title in {kind.title for kind in WRITTEN[writes]} or name in typed:
            continue
        before = (files / name).read_bytes()
        result = CliRunner().invoke(main, [*typed, name])
        if name == "in.onnx":
            assert result.exit_code != 0
        else:
            assert result.stderr == (
                f"Error: {name}: is {title}, and {flag} would overwrite it\nHint: {flag} writes {writes}; {use}\n"
            )
        assert (files / name).read_bytes() == before


def test_what_nobody_knows_is_none_of_them(tmp_path: Path) -> None:
    unknown = {"a.onnx": b"", "b.json": b"[1]", "c.npz": b"PK\x03\x04", "d": b"\x08\x08", "e": b"{}"}
    for name, data in unknown.items():
        (tmp_path / name).write_bytes(data)
        assert kind_of(tmp_path / name) is None, name
    assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "nowhere") is None


def test_the_formats_are_those_of_the_files() -> None:
    formats = {each.FORMAT for each in (plan, sparse_plan, table, file)}
    assert formats == {"onnxpfp-plan", "onnxpfp-sparse-plan", "onnxpfp-latency-table", "onnxpfp-scores"}
