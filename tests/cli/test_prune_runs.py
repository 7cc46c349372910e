from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from pseudo_terminal import drain

import onnxpfp
import onnxpfp.api.prune
from onnxpfp.cli.main import main

MODELS = Path(__file__).parents[2] / "models"
HEAVY = {"numpy", "onnx", "onnxruntime", "scipy", "onnx_graphsurgeon", "rich"}


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": root} | environment,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["prune", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from onnxpfp.cli.main import main; "
        f"main({arguments}, standalone_mode=False); print(' '.join(sys.modules), file=sys.stderr)"
    )
    found = _python("-c", code)
    assert not HEAVY.intersection(found.stderr.split())
    assert "onnxpfp" in found.stdout


def test_version_and_help():
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout == f"onnxpfp, version {onnxpfp.__version__}\n"
    text = CliRunner().invoke(main, ["prune", "-h"], terminal_width=200).stdout
    for flag in ("--calib-data", "--keep-macs", "--from-plan", "--json", "--force", "--workspace"):
        assert flag in text


def test_a_pipe_gets_plain_text_and_no_progress(folder):
    arguments = ("-m", "onnxpfp", "prune", "in.onnx", "out.onnx", "--calib-data", "data.npz")
    found = _python(*arguments, TERM="xterm-256color")
    assert "\x1b" not in found.stdout + found.stderr
    assert "MACs" in found.stdout
    assert "\r" not in found.stdout + found.stderr
    told = [line for line in found.stderr.splitlines() if ", after " not in line]
    assert all(line.startswith("Note: ") for line in told[:-1])
    assert told[-1] == "Written: out.onnx"
    assert not any(line.endswith(" ") for line in found.stdout.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(folder, monkeypatch, colour):
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "onnxpfp", "prune", "in.onnx", "out.onnx"]
    with subprocess.Popen(command, stdout=follower, stderr=follower) as process:
        os.close(follower)
        text = drain(leader)
        assert process.wait() == 0
    assert ("\x1b[" in text) is colour
    assert "MACs" in text


def test_without_data_it_says_how_to_give_some(prune):
    result = prune("in.onnx", "out.onnx")
    assert result.exit_code == 0
    assert "by weights alone" in result.stdout
    assert "keep 70 % of the MACs" in result.stdout
    assert "not measured, for there are no data" in result.stdout
    assert result.stderr.startswith("Note: no data")
    assert "--calib-data FILE.npz" in result.stderr


def test_random_data_are_loud(prune):
    result = prune("in.onnx", "out.onnx", "--calib-data", "random")
    assert result.exit_code == 0
    assert "Note: RANDOM data" in result.stderr
    assert "Note" not in result.stdout


def test_json_on_stdout_is_alone_there(prune, monkeypatch):
    work = onnxpfp.api.prune.prune_with

    def noisy(*arguments, **options):
        print("[W] a library that prints")
        return work(*arguments, **options)

    monkeypatch.setattr(onnxpfp.api.prune, "prune_with", noisy)
    result = prune("in.onnx", "out.onnx", "--calib-data", "data.npz", "--json", "-")
    report = json.loads(result.stdout)
    assert report["plan"] is None
    assert report["drift"]["held_out"] is True
    assert "[W] a library that prints" in result.stderr
    result = prune("in.onnx", "out.onnx")
    assert "[W]" not in result.stdout


def test_quiet_and_verbose(prune):
    quiet = prune("in.onnx", "out.onnx", "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")
    verbose = prune("in.onnx", "out.onnx", "-v")
    told = [line for line in verbose.stderr.splitlines() if line.endswith(" ...")]
    assert (told[0], told[-1]) == ("load ...", "latency ...")
    assert "load ..." not in prune("in.onnx", "out.onnx").stderr


@pytest.mark.parametrize("shape", ["x:2,3,8,8", "x:2x3x8x8", "2,3,8,8", "2x3x8x8"])
def test_spellings_of_a_shape(prune, shape):
    assert prune("in.onnx", "out.onnx", "--input-shape", shape).exit_code == 0


def test_options_reach_the_pipeline(prune, monkeypatch):
    seen = []
    work = onnxpfp.api.prune.prune_with

    def spy(model, calibration, options, **rest):
        seen.append((calibration, options))
        return work(model, calibration, options, **rest)

    monkeypatch.setattr(onnxpfp.api.prune, "prune_with", spy)
    flags = "--calib-data data.npz --keep-params 0.8 --select mixed --kernel max --compensate none --delta 1e-9"
    more = "--seed 7 --threads 1 --round-to 2 --min-channels 2 --include node_* --exclude w2 --calib-samples 12"
    last = "--batch-size 3 --attention width --score pfp --allocate uniform --steps 1 --workspace 1.5MiB"
    result = prune("in.onnx", "out.onnx", *flags.split(), *more.split(), *last.split())
    assert seen, result.output
    calibration, options = seen[0]
    assert calibration == "data.npz"
    assert (options.keep_macs, options.keep_params, options.select, options.kernel) == (None, 0.8, "mixed", "max")
    assert (options.compensate, options.delta, options.seed, options.threads) == ("none", 1e-9, 7, 1)
    assert (options.round_to, options.min_channels, options.samples, options.batch_size) == (2, 2, 12, 3)
    assert (options.attention, options.score, options.allocate, options.steps) == ("width", "pfp", "uniform", 1)
    assert (options.include, options.exclude) == (("node_*",), ("w2",))
    assert (options.workspace, options.strict_providers) == (3 << 19, False)
    prune("in.onnx", "out.onnx", "--providers", "cuda", "--strict-providers")
    assert (seen[1][1].workspace, seen[1][1].providers) == (512_000_000, "cuda")
    assert seen[1][1].strict_providers


def test_a_plan_is_replayed_to_the_same_bytes(folder, prune):
    plain = ("--calib-data", "data.npz", "--compensate", "none")
    assert prune("in.onnx", "one.onnx", *plain, "--keep-macs", "0.5", "--plan", "p.json").exit_code == 0
    result = prune("in.onnx", "two.onnx", "--from-plan", "p.json", "--plan", "p.json")
    assert result.exit_code == 0
    assert "replay of a plan" in result.stdout
    assert (folder / "one.onnx").read_bytes() == (folder / "two.onnx").read_bytes()


@pytest.mark.skipif(not (MODELS / "fmnist_resnet.onnx").is_file(), reason="the demonstration networks are missing")
def test_a_trained_network(folder, prune):
    data = MODELS / "fmnist_calibration.npz"
    result = prune(MODELS / "fmnist_resnet.onnx", "small.onnx", "--calib-data", data, "--keep-macs", "0.7")
    assert result.exit_code == 0, result.output
    assert "keep 70 % of the MACs" in result.stdout
    assert "top-1 agreement" in result.stdout
    assert "held-out samples" in result.stdout
    assert onnx.load(folder / "small.onnx").graph.input[0].name == "images"


@pytest.mark.parametrize(("asked", "most"), [("1.3kB", 1300), ("1.28KiB", 1310), ("0.8", None)])
def test_a_file_gets_as_small_as_was_asked_for(folder, prune, asked, most):
    result = prune("in.onnx", "out.onnx", "--calib-data", "data.npz", "--keep-size", asked, "--no-metadata")
    assert result.exit_code == 0, result.output
    written = (folder / "out.onnx").stat().st_size
    budget = most or 0.8 * (folder / "in.onnx").stat().st_size
    assert budget * 0.9 < written <= budget
    asked_for = f"a file of at most {most:,} bytes" if most else "keep 80 % of the size of the file"
    assert asked_for in result.stdout


def test_a_file_that_is_small_enough_is_written_as_it_is(folder, prune):
    result = prune("in.onnx", "out.onnx", "--keep-size", "1MB")
    assert (folder / "in.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
    assert "Note: the model is as small as was asked for already: nothing was pruned" in result.stderr
