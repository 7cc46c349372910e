from __future__ import annotations

import ctypes
import json

import cli_models
import onnx
import pytest

from onnxpfp.cli.parsing import parse_share_or_size, parse_size
from onnxpfp.options import Options


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan", "inf"])
@pytest.mark.parametrize("flag", ["--keep-macs", "--keep-params"])
def test_a_target_outside_its_range(refuse, flag, share):
    found = refuse("in.onnx", "out.onnx", flag, share, code=2)
    assert found.error == f"{flag} {share} is outside (0, 1]"
    assert found.hint == f"{flag} 0.7 keeps 70 %"


def test_two_targets(refuse):
    found = refuse("in.onnx", "out.onnx", "--keep-macs", "0.5", "--keep-params", "0.5", code=2)
    assert found.error == "give one target: --keep-macs or --keep-params, not both"


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "inf", "", "4000", "4M", "half", "5XB", "1B", "0MB", "0.7B"])
def test_a_size_that_is_none(refuse, text):
    found = refuse("in.onnx", "out.onnx", "--keep-size", text, code=2)
    assert found.error == f"--keep-size '{text}' is neither a share in (0, 1] nor an amount with its unit"
    assert found.hint == "write --keep-size 0.5 for half of the file, or --keep-size 4MB, 512kB or 1.5MiB"


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1", 1), (".25", 0.25), ("1e-1", 0.1), ("4MB", 4_000_000), ("1.5 kib", 1536)]
)
def test_sizes(text, value):
    assert parse_share_or_size("--keep-size", text) == value


def test_a_size_that_cannot_be_reached(refuse):
    found = refuse("in.onnx", "out.onnx", "--keep-size", "200B", "--no-metadata", code=3)
    assert found.error == "in.onnx: the target is a file of 200 bytes, but 444 bytes is the least that can be reached"
    assert found.hint == "ask for 444 bytes or more"


@pytest.mark.parametrize("flag", ["--keep-macs", "--keep-params"])
def test_a_target_that_cannot_be_reached_says_what_can(refuse, flag):
    found = refuse("in.onnx", "out.onnx", flag, "0.01", code=3)
    assert found.error.startswith("in.onnx: ")
    assert "1.0%" in found.error
    assert "16.7% is the least" in found.error
    assert "at least 0.167" in found.hint


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--threads", "0", "--threads 0 must be at least 1"),
        ("--round-to", "0", "--round-to 0 must be at least 1"),
        ("--round-to", "-8", "--round-to -8 must be at least 1"),
        ("--round-to", "8.5", "--round-to '8.5' is neither a whole number nor auto"),
        ("--round-to", "Auto", "--round-to 'Auto' is neither a whole number nor auto"),
        ("--min-channels", "0", "--min-channels 0 must be at least 1"),
        ("--calib-samples", "0", "--calib-samples 0 must be at least 1"),
        ("--batch-size", "-2", "--batch-size -2 must be at least 1"),
        ("--seed", "-1", "--seed -1 must not be negative"),
        ("--delta", "2", "--delta 2 is no probability between 0 and 1"),
        ("--delta", "nan", "--delta nan is no probability between 0 and 1"),
        ("--confidence", "1", "--confidence 1 is outside (0, 1)"),
        ("--confidence", "0", "--confidence 0 is outside (0, 1)"),
        ("--confidence", "nan", "--confidence nan is outside (0, 1)"),
        ("--confidence", "0.05", "--confidence 0.05 is less than even: it is a confidence, not an error probability"),
        ("--workspace", "999kB", "--workspace 999000 bytes is less than 1MB"),
        ("--workspace", "0GB", "--workspace 0 bytes is less than 1MB"),
    ],
)
def test_numbers_that_cannot_be_meant(refuse, flag, value, says):
    assert refuse("in.onnx", "out.onnx", flag, value, code=2).error == says


def test_an_error_probability_is_no_confidence(refuse):
    found = refuse("in.onnx", "out.onnx", "--confidence", "0.05", code=2)
    assert found.hint == "--confidence 0.95 lets a promise fail with a probability of 0.05"
    assert Options(confidence=0.5).confidence == 0.5


@pytest.mark.parametrize("text", ["512", "", "MB", "-1GB", "1e3MB", "1,5GB", "5XB", "512M", "1.GB", "1 2MB", "infGB"])
def test_an_amount_of_memory_that_is_none(refuse, text):
    found = refuse("in.onnx", "out.onnx", "--workspace", text, code=2)
    assert found.error == f"--workspace '{text}' is no amount of memory"
    assert found.hint == "write --workspace 512MB, 2GB or 1.5GiB"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("512MB", 512 * 10**6), ("2GB", 2 * 10**9), ("1.5GiB", 3 << 29), ("1.5gib", 3 << 29), ("3 TB", 3 * 10**12)),
        *(("7B", 7), ("4KiB", 4096), ("4kb", 4000), ("0.1MB", 100_000), (" 16MiB ", 16 << 20), ("0.7B", 0)),
    ],
)
def test_amounts_of_memory(text, size):
    assert parse_size("--workspace", text) == size


@pytest.mark.parametrize("flag", ["--include", "--exclude"])
def test_a_pattern_without_a_match(refuse, flag):
    found = refuse("in.onnx", "out.onnx", flag, "node_aa", code=2)
    assert found.error == f"{flag} 'node_aa' matches no node and no initializer"
    assert found.hint.startswith("close names: node_a")
    found = refuse("in.onnx", "out.onnx", flag, "re:[", code=2)
    assert "is no regular expression" in found.error


@pytest.mark.parametrize(
    ("names", "says", "hint"),
    [
        ("cudaa", "unknown execution provider 'cudaa'", "did you mean cuda"),
        ("cuda:x", "'cuda:x' does not name a device", "cuda:0"),
        (",", "no execution provider is named", "try cpu or cuda"),
    ],
)
def test_a_provider_that_is_none(refuse, names, says, hint):
    found = refuse("in.onnx", "out.onnx", "--providers", names)
    assert found.error == says
    assert hint in found.hint


@pytest.mark.parametrize("names", ["cpu", "cuda,cpu", "CPUExecutionProvider"])
def test_the_cpu_where_other_providers_are_strict(refuse, names):
    found = refuse("in.onnx", "out.onnx", "--providers", names, "--strict-providers", code=2)
    cpu = names.split(",")[-1]
    assert found.error == f"--strict-providers keeps every node from the CPU, and --providers {cpu} names it"
    assert found.hint == "name others only: --providers cuda"


def test_cuda_on_a_machine_without_a_gpu(refuse):
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        found = refuse("in.onnx", "out.onnx", "--providers", "cuda")
        assert found.error.startswith("cuda was asked for, but ")
        assert found.hint
    else:
        pytest.skip("this machine has a driver")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("foo", "--input-shape 'foo' is no shape"),
        ("x:1,,3", "--input-shape 'x:1,,3' is no shape"),
        ("", "--input-shape '' is no shape"),
        ("x:", "--input-shape x: contradicts the model's ?,3,8,8"),
        ("1x0x8x8", "--input-shape x:1,0,8,8 contradicts the model's ?,3,8,8"),
        ("0x3x8x8", "--input-shape x:0,3,8,8 has no sample: its axis 0 is 0"),
        ("xx:1,3,8,8", "--input-shape names 'xx', which is not an input of the model"),
        ("1,3,9,9", "--input-shape x:1,3,9,9 contradicts the model's ?,3,8,8"),
    ],
)
def test_a_bad_input_shape(refuse, shape, says):
    assert refuse("in.onnx", "out.onnx", "--input-shape", shape, code=2).error == says


def test_input_shapes_that_leave_the_input_open(folder, refuse):
    twice = ("--input-shape", "x:1,3,8,8", "--input-shape", "1x3x8x8")
    assert refuse("in.onnx", "out.onnx", *twice, code=2).error == "--input-shape gives 'x' two shapes"
    onnx.save(cli_models.build(cli_models.TWO_INPUTS, cli_models.TWO_SHAPES), folder / "two.onnx")
    found = refuse("two.onnx", "out.onnx", "--input-shape", "1,5", code=2)
    assert found.error == "--input-shape '1,5' names no input, and the model has 2: a, b"
    (folder / "bad.onnx").write_bytes(b"hello")
    assert refuse("bad.onnx", "out.onnx", "--input-shape", "1,5").error.startswith("bad.onnx: is not an ONNX")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{hello", "bad.json: is no JSON: "),
        ("[1]", "bad.json: is no plan of onnxpfp"),
        ('{"format": "onnxpfp-plan", "version": 9}', "bad.json: is a plan of version 9, not 1"),
        ('{"format": "onnxpfp-plan", "version": 1}', "bad.json: the plan is damaged"),
    ],
)
def test_a_file_that_is_no_plan(folder, refuse, content, says):
    (folder / "bad.json").write_text(content)
    assert says in refuse("in.onnx", "out.onnx", "--from-plan", "bad.json").error


def _edit(weights: dict, weight: str, part: str, value: dict) -> None:
    weights[weight][part] = value


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("w1", "keep", {"0": [0, 77]}), "impossible indices of axis 0 of 'w1'"),
        (("w1", "keep", {"0": [-1]}), "impossible indices of axis 0 of 'w1'"),
        (("w1", "keep", {"0": []}), "do not go together"),
        (("w1", "keep", {"7": [0]}), "impossible indices of axis 7 of 'w1'"),
        (("w1", "keep", {"1": [0]}), "indices of axis 1 of 'w1' that cannot go"),
        (("w1", "keep", {"0": [0]}), "do not go together"),
        (("w1", "keep", {"0": "abc"}), "the plan is damaged"),
        (("w1", "shape", [9, 3, 3, 3]), "'w1' has shape [6, 3, 3, 3], the plan says [9, 3, 3, 3]"),
        (("w2", "scale", {"9": [1.0]}), "impossible factors for axis 9 of 'w2'"),
        (("w2", "scale", {"1": [1.0]}), "impossible factors for axis 1 of 'w2'"),
        (("w2", "scale", {"1": [float("nan")] * 3}), "impossible factors for axis 1 of 'w2'"),
    ],
)
def test_an_edited_plan(folder, prune, refuse, edit, says):
    assert prune("in.onnx", "out.onnx", "--keep-macs", "0.5", "--plan", "plan.json").exit_code == 0
    document = json.loads((folder / "plan.json").read_text())
    _edit(document["initializers"], *edit)
    (folder / "edited.json").write_text(json.dumps(document))
    found = refuse("in.onnx", "out.onnx", "--from-plan", "edited.json")
    assert found.error.startswith("edited.json: ")
    assert says in found.error


def test_a_plan_of_another_network(folder, prune, refuse):
    assert prune("in.onnx", "out.onnx", "--keep-macs", "0.5", "--plan", "plan.json").exit_code == 0
    onnx.save(cli_models.build(cli_models.TWO_INPUTS, cli_models.TWO_SHAPES), folder / "two.onnx")
    found = refuse("two.onnx", "out.onnx", "--from-plan", "plan.json")
    assert found.error == "plan.json: the weight 'w1' has shape [5, 8], the plan says [6, 3, 3, 3]"


def test_a_plan_together_with_a_target(refuse):
    found = refuse("in.onnx", "out.onnx", "--from-plan", "plan.json", "--keep-macs", "0.5", code=2)
    assert "--from-plan says what stays" in found.error


def test_usage_errors_are_those_of_click(prune):
    assert prune("in.onnx").exit_code == 2
    assert prune("in.onnx", "out.onnx", "--keep-macs", "half").exit_code == 2
    assert prune("in.onnx", "out.onnx", "--select", "best").exit_code == 2
