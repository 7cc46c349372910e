from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cli_models
import onnx
import pytest
from click.testing import CliRunner

import onnxpfp.api.prune
import onnxpfp.model.save
from onnxpfp.cli.main import main
from onnxpfp.errors import OutputError, VerificationError

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_the_directory_is_missing_or_a_file(folder, refuse):
    found = refuse("in.onnx", "no/out.onnx")
    assert found.error == "no/out.onnx: the directory no does not exist"
    assert found.hint == "make it: mkdir -p no"
    assert refuse("in.onnx", "data.npz/out.onnx").error == "data.npz/out.onnx: data.npz is a file, not a directory"
    (folder / "sub").mkdir()
    assert refuse("in.onnx", "sub").error == "sub: is a directory"


@linux
def test_the_directory_cannot_be_written(refuse):
    for arguments in (("/proc/out.onnx",), ("out.onnx", "--plan", "/proc/p.json"), ("out.onnx", "--json", "/proc/r")):
        found = refuse("in.onnx", *arguments)
        assert "the directory /proc cannot be written" in found.error
        assert found.hint == "name another directory"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("prune", "in.onnx", "-"), "name a file"),
        (("prune", "in.onnx", "out.onnx", "--plan", "-"), "name a file"),
        (("prune", "in.onnx", "out.onnx", "--save-config", "-"), "name a file"),
        (("sweep", "in.onnx", "-o", "-"), "name a directory"),
        (("factorize", "in.onnx", "-"), "name a file"),
        (("sparsify", "in.onnx", "-"), "name a file"),
        (("latency", "in.onnx", "-o", "-"), "name a file"),
        (("latency", "in.onnx", "-o", "t.json", "--models", "-"), "name a directory"),
        (("score", "in.onnx", "--calib-data", "data.npz", "--save", "-"), "name a file"),
        (("merge", "data.npz", "-o", "-"), "name a file"),
    ],
)
def test_nothing_but_reports_goes_to_stdout(folder, refuse_verb, arguments, hint):
    found = refuse_verb(*arguments)
    assert (found.error, found.hint) == ("-: only reports are written to stdout", hint)


def test_a_report_goes_to_stdout_beside_a_model(folder, prune):
    assert prune("in.onnx", "new.onnx", "--json", "-").stdout.startswith("{")
    assert not (folder / "-").exists()


@linux
def test_a_device_is_not_replaced(refuse):
    assert refuse("in.onnx", "/dev/null").error == "/dev/null: is no regular file"
    assert Path("/dev/null").is_char_device()


def test_the_input_is_not_overwritten_without_force(folder, refuse, prune):
    (folder / "link.onnx").symlink_to("in.onnx")
    os.link(folder / "in.onnx", folder / "hard.onnx")
    for source, target in (("in", "in"), ("in", "link"), ("in", "hard"), ("link", "in")):
        found = refuse(f"{source}.onnx", f"{target}.onnx")
        assert found.error == f"{target}.onnx: is the input itself"
        assert found.hint == "give another name, or --force to overwrite it"
    before = (folder / "in.onnx").read_bytes()
    assert prune("in.onnx", "in.onnx", "--force").exit_code == 0
    assert (folder / "in.onnx").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("out.onnx", "--plan", "out.onnx"), "out.onnx: --plan and OUT are the same file"),
        (("out.onnx", "--json", "in.onnx", "--force"), "in.onnx: --json and IN are the same file"),
        (("out.onnx", "--plan", "p", "--json", "./p"), "p: --json and --plan are the same file"),
        (("data.npz", "--calib-data", "data.npz"), "data.npz: OUT and --calib-data are the same file"),
        (
            ("table.json", "--keep-latency", "0.7", "--latency-table", "table.json"),
            "table.json: OUT and --latency-table are the same file",
        ),
        (
            ("out.onnx", "--keep-latency", "0.7", "--latency-table", "t.json", "--plan", "./t.json"),
            "t.json: --plan and --latency-table are the same file",
        ),
        (("out.onnx", "--json", "data.npz", "--calib-data", "data.npz"), "data.npz: --json and --calib-data"),
    ],
)
def test_files_of_one_run_are_kept_apart(refuse, arguments, says):
    assert refuse("in.onnx", *arguments).error.startswith(says)


@pytest.mark.parametrize(
    ("verb", "arguments", "flag"),
    [
        ("prune", ("far.data",), "OUT"),
        ("prune", ("out.onnx", "--plan", "far.data"), "--plan"),
        ("prune", ("out.onnx", "--json", "far.data"), "--json"),
        ("inspect", ("--json", "far.data"), "--json"),
        ("prunability", ("--calib-data", "random", "--json", "far.data"), "--json"),
    ],
)
def test_the_weights_beside_the_input_are_not_overwritten(folder, verb, arguments, flag):
    onnx.save(
        cli_models.chain(), folder / "far.onnx", save_as_external_data=True, location="far.data", size_threshold=0
    )
    before = (folder / "far.data").read_bytes()
    found = CliRunner().invoke(main, [verb, "far.onnx", *arguments])
    assert found.exit_code != 0
    assert f"far.data: {flag} and the weights far.data of IN are the same file" in found.stderr
    assert (folder / "far.data").read_bytes() == before


def test_other_outputs_are_checked_before_the_work(refuse, monkeypatch):
    monkeypatch.setattr(onnxpfp.api.prune, "prune_with", lambda *_, **__: pytest.fail("the work began"))
    assert refuse("in.onnx", "out.onnx", "--plan", "no/p.json").error == "no/p.json: the directory no does not exist"
    assert refuse("in.onnx", "out.onnx", "--json", "no/r.json").error == "no/r.json: the directory no does not exist"


def test_a_late_failure_says_what_is_written(folder, prune, monkeypatch):
    save = onnxpfp.model.save.save_bytes

    def fail(path: Path, data: bytes) -> None:
        if path.suffix == ".onnx":
            return save(path, data)
        raise OutputError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(onnxpfp.model.save, "save_bytes", fail)
    result = prune("in.onnx", "out.onnx", "--json", "r.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: r.json: cannot be written: No space left on device",
        "Hint: already written: out.onnx",
    ]
    assert onnx.load(folder / "out.onnx").graph.node
    assert not (folder / "r.json").exists()


def test_an_interrupted_write_leaves_no_traces(folder, prune, monkeypatch):
    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    result = prune("in.onnx", "out.onnx")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")
    assert (folder / "out.onnx").read_bytes() == cli_models.EXISTING
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "in.onnx", "out.onnx"]


@pytest.mark.parametrize(
    ("failure", "code", "lines"),
    [
        (KeyboardInterrupt(), 130, ["Error: interrupted"]),
        (MemoryError(), 1, ["Error: out of memory", "Hint: a smaller --workspace or --batch-size needs less"]),
        (OSError(28, "No space left on device"), 1, ["Error: OSError: [Errno 28] No space left on device"]),
        (
            ZeroDivisionError("by\nzero"),
            1,
            [
                "Error: this is a bug of onnxpfp: ZeroDivisionError: by zero",
                "Hint: report it with what -vv prints",
            ],
        ),
        (VerificationError("they\ndiffer", hint="a\nb"), 4, ["Error: they differ", "Hint: a b"]),
    ],
    ids=["interrupt", "memory", "disk", "bug", "verification"],
)
def test_whatever_fails_is_told_in_one_line(folder, prune, monkeypatch, failure, code, lines):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(onnxpfp.api.prune, "prune_with", fail)
    result = prune("in.onnx", "out.onnx", "--plan", "p.json", "--json", "r.json")
    assert (result.exit_code, result.stdout, result.stderr.splitlines()) == (code, "", lines)
    assert (folder / "out.onnx").read_bytes() == cli_models.EXISTING
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "in.onnx", "out.onnx"]
    assert "Traceback" in prune("in.onnx", "out.onnx", "-vv").stderr


def test_the_three_files_of_a_run(folder, prune):
    result = prune("in.onnx", "out.onnx", "--keep-macs", "0.5", "--plan", "p.json", "--json", "r.json")
    assert result.exit_code == 0
    report = json.loads((folder / "r.json").read_text())
    assert (report["input"], report["output"], report["plan"]) == ("in.onnx", "out.onnx", "p.json")
    for key in ("before", "after"):
        assert set(report[key]) == {"params", "macs", "bytes", "activations"}
    assert report["after"]["bytes"] == (folder / "out.onnx").stat().st_size
    phases = "load shapes channels lossless calibration ranking allocation rewrite verification latency"
    assert list(report["seconds"]) == phases.split()
    assert report["groups"][0]["name"] == "w1"
    assert report["skipped"][0]["reason"] == "it is the graph output 'y'"
    assert report["drift"] is None
    assert "onnxruntime" in " ".join(report["versions"])
    assert json.loads((folder / "p.json").read_text())["format"] == "onnxpfp-plan"


def test_external_data_stay_external(folder, prune):
    wide = cli_models.build(cli_models.CHAIN.format(op="Relu"), {"w1": (60, 3, 3, 3), "w2": (4, 60, 3, 3)})
    onnx.save(wide, folder / "far.onnx", save_as_external_data=True, location="far.data", size_threshold=0)
    for _ in range(2):
        result = prune("far.onnx", "near.onnx", "--keep-macs", "0.5", "--plan", "p.json", "--json", "r.json")
        assert result.exit_code == 0, result.output
        assert result.stderr.endswith("Written: near.onnx, near.onnx.data, p.json, r.json\n")
    sizes = [(folder / name).stat().st_size for name in ("near.onnx", "near.onnx.data")]
    assert sizes[1] > sizes[0]
    report = json.loads((folder / "r.json").read_text())
    assert report["after"]["bytes"] == pytest.approx(sum(sizes), rel=0.02)
    modes = {(folder / name).stat().st_mode for name in ("near.onnx", "near.onnx.data")}
    assert len(modes) == 1
    stored = onnx.load(folder / "near.onnx").graph.initializer
    assert stored[0].dims[0] < 60


def test_external_weights_of_the_input_are_not_overwritten(folder, refuse, prune):
    cli_models.save_external(folder, "far")
    (folder / "far.data").rename(folder / "near.onnx.data")
    model = onnx.load(folder / "far.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "near.onnx.data"
    onnx.save(model, folder / "far.onnx")
    found = refuse("far.onnx", "near.onnx", "--force")
    assert found.error == "near.onnx: its weights would overwrite near.onnx.data, which far.onnx reads"
    (folder / "far.onnx").rename(folder / "near.onnx")
    assert prune("near.onnx", "near.onnx", "--force", "--keep-macs", "0.5").exit_code == 0
    assert onnx.load(folder / "near.onnx").graph.initializer[0].dims[0] == 3
