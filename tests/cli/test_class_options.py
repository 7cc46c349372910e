"""`--keep-classes` on the command line: what it tells of the interface, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import onnx
import pytest
from click.testing import CliRunner, Result
from support import class_nets

from onnxpfp.cli.main import main


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)], terminal_width=200)


def test_classes_alone_go_and_the_report_tells_the_new_interface(tmp_path: Path) -> None:
    out, plan, report = (tmp_path / name for name in ("out.onnx", "plan.json", "report.json"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"thing{number}" for number in range(10)))
    flags = ["--keep-classes", "thing0,2", "--class-names", names, "--keep-macs", "1", "--no-latency"]
    result = call("prune", nets.network("resnet"), out, *flags, "--plan", plan)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "2 of 10 stay: 0 (thing0) -> 0, 2 (thing2) -> 1" in shown
    assert "output 'logits': axis 1 from 10 to 2" in shown
    assert nets.weights(onnx.load(out))["head.fc.weight"].shape == (2, 64)
    verified = call("verify", nets.network("resnet"), out, "--plan", plan, "--no-latency", "--json", report)
    assert verified.exit_code == 0, verified.output
    assert json.loads(report.read_text())["classes"]["kept"] == [0, 2]
    assert call("verify", nets.network("resnet"), out, "--keep-classes", "0,2", "--no-latency").exit_code == 0
    refused = call("verify", nets.network("resnet"), out, "--no-latency")
    assert refused.exit_code == 4
    assert "--keep-classes or --plan says which" in refused.output


def test_ranges_are_told_as_ranges(tmp_path: Path) -> None:
    flags = ["--keep-classes", "0,2,5-9", "--keep-macs", "1", "--no-latency"]
    result = call("prune", nets.network("resnet"), tmp_path / "out.onnx", *flags)
    assert "7 of 10 stay: 0 -> 0, 2 -> 1, 5-9 -> 2-6" in result.output


def test_the_flag_that_tells_a_layout_is_named(tmp_path: Path) -> None:
    model = tmp_path / "in.onnx"
    onnx.save(class_nets.yolov5(), model)
    flags = ["--keep-classes", "1", "--keep-macs", "1", "--no-latency"]
    refused = call("prune", model, tmp_path / "out.onnx", *flags)
    assert refused.exit_code == 2
    assert "say which, as in --class-axis y:2:0:8, with the numbers of one anchor at the end where" in refused.output
    assert "or how many there are: --class-names FILE" in refused.output
    told = call("prune", model, tmp_path / "out.onnx", *flags, "--class-axis", "y:2:5")
    assert told.exit_code == 0, told.output
    assert "axis 2 from 8 to 6, the first class at index 5 as before" in " ".join(told.output.split())


def test_anchors_behind_one_another_are_told_as_blocks(tmp_path: Path) -> None:
    model = tmp_path / "in.onnx"
    onnx.save(class_nets.raw_yolov5(), model)
    flags = ["--keep-classes", "1", "--keep-macs", "1", "--no-latency", "--class-axis", "h1:1:5:3:8"]
    told = call("prune", model, tmp_path / "out.onnx", *flags)
    assert told.exit_code == 0, told.output
    assert (
        "output 'h1': axis 1 from 16 to 12, 2 blocks of 6 in the place of 8 each, the first class of each at index 5"
    ) in " ".join(told.output.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--keep-classes", "10"], "there are 10 classes"),
        (["--keep-classes", "cat"], "no names are known"),
        (["--keep-classes", "3-1"], "from a smaller number to a larger one"),
        (["--keep-classes", "0", "--class-axis", "scores:1"], "names no output"),
        (["--keep-classes", "0", "--class-axis", "logits:2"], "has shape [1, 10]"),
        (["--keep-classes", "0", "--class-axis", "logits:1:3:8"], "has 10 indices"),
        (["--keep-classes", "0", "--class-axis", "logits:0"], "has 1 index"),
        (["--keep-classes", "0", "--class-axis", "logits:1:0:2:3"], "has 10 indices, which are no blocks of 3"),
        (["--keep-classes", "0", "--class-axis", "logits:1:0:2:5:2"], "OUTPUT:AXIS[:FIRST[:COUNT[:EVERY]]]"),
        (["--keep-classes", "0", "--class-axis", "logits:x:1"], "OUTPUT:AXIS[:FIRST[:COUNT[:EVERY]]]"),
        (["--class-axis", "logits:1"], "--class-axis goes with --keep-classes"),
        (["--class-names", "names.txt"], "--class-names goes with --keep-classes"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    result = call("prune", nets.network("resnet"), tmp_path / "out.onnx", *flags, "--no-latency")
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "out.onnx").exists()
