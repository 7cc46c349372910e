from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cli_models
import onnx
import pytest
from support.report_text import line_of, text_of

import onnxpfp
from onnxpfp.api.inspect import Footprint, InspectedGroup, Inspection, NodeName, Stay, Subnormal
from onnxpfp.channels import Fixed
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor
from onnxpfp.runtime.latency import Latency, LatencyRatio

PEAK = ActivationPeak(4096, "Relu", "r", (LiveTensor("a", 2048), LiveTensor("b", 2048)))
ROOT = Path(__file__).parents[2]


def _found(groups: int = 1, stays: int = 1) -> Inspection:
    group = InspectedGroup(
        "a.very.long.name.of.a.weight.that.no.console.may.cut",
        16,
        Footprint(9_996, 123_456_789_012),
        tuple(NodeName("Conv", f"node/{number}") for number in range(4)),
    )
    fixed = Fixed("w9", 0, 10, "Conv '/m/conv' slides over it")
    return Inspection(
        file="in.onnx",
        opsets={"ai.onnx": 17, "com.microsoft": 1},
        ir_version=8,
        nodes=1234,
        inputs={"x": (1, 3, 8, 8), "n": ()},
        attention="heads",
        total=Footprint(1_000_000, 4_000_000_000),
        reachable=Footprint(987_000, 0),
        groups=(group,) * groups,
        stays=(Stay("Conv slides over it", (fixed, fixed), Footprint(640, 0), Footprint(99, 0)),) * stays,
        bodies=(),
        activations=PEAK,
    )


def test_the_header():
    text = text_of(_found())
    assert text.splitlines()[0] == "in.onnx: opset 17, com.microsoft 1, IR 8, 1,234 nodes"
    assert line_of(text, "parameters") == "parameters 1,000,000, 98.7 % in channels that may go"
    assert line_of(text, "MACs, one run") == "MACs, one run 4,000,000,000, 0.0 % in channels that may go"
    assert line_of(text, "counted at") == "counted at x 1x3x8x8, n scalar"
    assert "subnormal" not in text


def test_subnormal_weights_are_counted_in_the_header():
    text = text_of(replace(_found(), subnormal=Subnormal(31_000, 4)))
    told = "31,000 weights in 4 tensors, slow on some CPUs; prune writes as zero those that no result can tell"
    assert line_of(text, "subnormal") == f"subnormal {told}"
    assert line_of(text_of(replace(_found(), subnormal=Subnormal(1, 1))), "subnormal").startswith(
        "subnormal 1 weight in 1 tensor,"
    )


@pytest.mark.parametrize(
    ("high", "told"),
    [
        (0.98, "; here, 26.9 -> 25.1 ms with 30,990 weights as zero"),
        (1.01, "; here, a run is no faster with 30,990 weights as zero: 26.9 -> 25.1 ms"),
    ],
)
def test_what_subnormal_weights_cost_is_told_with_its_spread(high: float, told: str):
    latency = LatencyFindings(
        Latency(26.9, 26.8, 27.1, 50), Latency(25.1, 25.0, 25.3, 50), LatencyRatio(0.933, 0.93, high), threads=1
    )
    text = text_of(replace(_found(), subnormal=Subnormal(31_000, 4, 30_990, latency)))
    assert " ".join(text.split()).count(f"those that no result can tell{told} latency ") == 1
    assert (
        "latency median of 50 runs of each model in turns, 1 thread; with zeros over as it is, pair by pair, 0.933, in "
        f"half of the pairs 0.930 to {high:.3f} (before 26.8 to 27.1 ms, after 25 to 25.3 ms)"
    ) in " ".join(text.split())


def test_why_that_was_not_measured_is_told():
    text = text_of(
        replace(_found(), subnormal=Subnormal(31_000, 4, None, LatencyFindings(unmeasured="it does not run")))
    )
    assert line_of(text, "latency") == "latency not measured: it does not run"
    assert "as zero" not in text.replace("writes as zero", "")


def test_a_group_and_a_reason_are_one_line_each_in_a_pipe():
    text = text_of(_found())
    name = _found().groups[0].name
    assert line_of(text, "a.very") == f"{name} 16 10.0 k 123 G Conv 'node/0', Conv 'node/1' and 2 more"
    assert line_of(text, "2 ") == "2 640 0 99 Conv slides over it: axis 0 of w9, for '/m/conv'"
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0"), (999, "999"), (1000, "1.00 k"), (12345, "12.3 k"), (999_499, "999 k"), (999_500, "1.00 M")),
        *((4_089_184_256, "4.09 G"), (10**15, "1000 T")),
    ],
)
def test_counts_have_three_digits(number, text):
    group = InspectedGroup("w", 1, Footprint(number, 0), ())
    assert f" {text} " in text_of(replace(_found(), groups=(group,)))


def test_nothing_is_cut_off_at_80_columns():
    text = text_of(_found(groups=3, stays=3), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    joined = "".join(text.split())
    assert joined.count("slidesoverit:axis0ofw9,for'/m/conv'") == 3
    names = [line.split()[0] for line in text.splitlines() if re.match(r"  \S+ +16 ", line)]
    assert len(names) == 3
    assert text.count("Conv 'node/0' and 3 more") == 3


def test_rows_are_cut_and_counted():
    found = _found(groups=45, stays=12)
    text = text_of(found, top=5)
    assert text.count("a.very.long") == 5
    assert "... and 40 more groups; --all shows all" in text
    assert "... and 7 more reasons; --all shows all" in text
    assert text_of(found).count("a.very.long") == 45
    assert "more groups" not in text_of(found) + text_of(found, top=45)


def test_names_are_no_markup(folder, inspect):
    model = cli_models.chain()
    for node in model.graph.node:
        node.input[:] = [name.replace("w1", "w[0].[/red]") for name in node.input]
    model.graph.initializer[0].name = "w[0].[/red]"
    onnx.save(model, folder / "named.onnx")
    assert "w[0].[/red]" in inspect("named.onnx").stdout


def test_it_prints_what_the_library_finds(folder, inspect):
    result = inspect("in.onnx")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == text_of(onnxpfp.inspect("in.onnx"))
    assert line_of(result.stdout, "w1") == "w1 6 378 9.29 k Conv 'node_y'"


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet"])
def test_the_trained_networks(inspect, name):
    path = ROOT / "models" / f"fmnist_{name}.onnx"
    result = inspect(path, "--json", "-")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document == onnxpfp.inspect(path).to_dict()
    assert document["groups"][0]["behind"]["macs"] > 0


def test_json_is_complete_and_alone_on_stdout(folder):
    command = [sys.executable, "-m", "onnxpfp", "inspect", "in.onnx", "--json", "-"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert (document["format"], document["version"], document["file"]) == ("onnxpfp-inspection", 1, "in.onnx")
    assert len(document["groups"]) == 1


def test_quiet_prints_nothing_but_json(inspect):
    assert inspect("in.onnx", "-q").output == ""
    assert json.loads(inspect("in.onnx", "-q", "--json", "-").output)["nodes"] == 3


@pytest.mark.parametrize("flag", ["--all", "-v"])
def test_all_rows(inspect, flag):
    path = ROOT / "models" / "fmnist_densenet.onnx"
    groups = len(onnxpfp.inspect(path).groups)
    assert f"... and {groups - 3} more groups; --all shows all" in inspect(path, "--top", "3").stdout
    assert "more groups" not in inspect(path, flag).stdout


def test_shapes_and_patterns(folder, inspect):
    free = cli_models.build(
        "g (float[N,3,H,W] x) => (float[N,2,H,W] y) { h = Conv(x, w1) y = Conv(h, w2) }",
        {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1)},
    )
    onnx.save(free, folder / "free.onnx")
    for shape in ("x:1,3,5,7", "1x3x5x7"):
        document = json.loads(inspect("free.onnx", "--input-shape", shape, "--json", "-").stdout)
        assert document["total"]["macs"] == 20 * 35
    text = inspect("free.onnx", "--exclude", "w1").stdout
    assert "Nothing in it can be pruned: what stays and why is listed below." in text
    assert "--exclude leaves it as it is: axis 0 of w1, for 'w1'" in text


def test_a_model_with_nothing_to_prune_is_shown(folder, inspect):
    relu = cli_models.build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }", {})
    onnx.save(relu, folder / "relu.onnx")
    result = inspect("relu.onnx")
    assert result.exit_code == 0
    assert "relu.onnx: opset 17, IR 8, 1 node\n" in result.stdout
    assert "Nothing in it can be pruned: it stores no matrix and no filter bank.\n" in result.stdout
    assert json.loads(inspect("relu.onnx", "--json", "-").stdout)["groups"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--top", "0"), "--top 0 must be at least 1"),
        (("--top", "3", "--all"), "--all shows every row, so --top has no meaning with it"),
        (("--top", "3", "--json", "-"), "--json shows every row, so --top has no meaning with it"),
        (("--include", "nowhere"), "--include 'nowhere' matches no node and no initializer"),
        (("--input-shape", "y:1,3,8,8"), "--input-shape names 'y', which is not an input of the model"),
        (("--input-shape", "1,2"), "--input-shape x:1,2 contradicts the model's ?,3,8,8"),
    ],
)
def test_options_that_cannot_be_meant(refuse_inspect, arguments, says):
    assert refuse_inspect("in.onnx", *arguments, code=2).error == says


def _break(folder: Path) -> None:
    whole = (folder / "in.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_bytes(b"hello world, this is text\n")
    onnx.save(cli_models.chain(op="Foo"), folder / "op.onnx")
    dangling = cli_models.chain()
    dangling.graph.node[1].input[0] = "nowhere"
    onnx.save(dangling, folder / "dangling.onnx")
    short = cli_models.chain()
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-8]
    onnx.save(short, folder / "short.onnx")
    wrong = cli_models.build(cli_models.CHAIN.format(op="Relu"), {"w1": (6, 3, 3, 3), "w2": (4, 5, 3, 3)})
    onnx.save(wrong, folder / "wrong.onnx")
    cli_models.save_external(folder, "far")
    (folder / "far.data").unlink()


@pytest.mark.parametrize(
    "name", ["nowhere", "cut", "empty", "text", "op", "dangling", "short", "wrong", "far", "/", "out"]
)
def test_a_bad_model_is_refused_as_prune_refuses_it(folder, refuse, refuse_inspect, name):
    _break(folder)
    file = name if name == "/" else f"{name}.onnx"
    found = refuse_inspect(file)
    assert found == refuse(file, "result.onnx")
    assert found.error.startswith(f"{file}: ")


def test_help_says_what_it_is_for(inspect):
    text = inspect("--help").stdout
    assert "onnxpfp inspect in.onnx --json in.json" in text
    for option in (
        "--input-shape",
        "--attention",
        "--include",
        "--exclude",
        "--no-latency",
        "--threads",
        "--top",
        "--all",
        "--json",
    ):
        assert option in text
