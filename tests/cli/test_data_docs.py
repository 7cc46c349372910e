"""Every command of docs/data.md runs, in a folder with what it names."""

from __future__ import annotations

import re
import shlex

import cli_models
import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

from onnxpfp.cli.main import main

PAGE = (nets.ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line.strip()
]
RECURRENT = """g (float[N,6] x, float[N,12] state) => (float[N,5] y, float[N,12] state_out) {
    a = MatMul(x, w)  b = Add(a, state)  state_out = Tanh(b)
    c = MatMul(state_out, v)  r = Relu(c)  y = MatMul(r, z) }"""
TEXT = """g (int64[batch,seq] ids) => (float[batch,seq,5] y) {
    e = Gather(table, ids)  a = MatMul(e, v)  r = Relu(a)  y = MatMul(r, z) }"""


@pytest.fixture
def files(folder):
    """What the commands name."""
    rng = np.random.default_rng(0)
    for name in ("photos", "arrays", "tokens"):
        (folder / name).mkdir()
    for number, image in enumerate(cli_models.images()):
        Image.fromarray(rng.integers(0, 256, (300, 320, 3), dtype=np.uint8)).save(folder / "photos" / f"{number}.png")
        np.save(folder / "arrays" / f"{number}.npy", image)
        np.save(folder / "tokens" / f"{number}.npy", rng.integers(0, 9, 3 + number % 3))
        data_set = folder / "test_data" / f"test_data_set_{number}"
        data_set.mkdir(parents=True)
        (data_set / "input_0.pb").write_bytes(numpy_helper.from_array(image[None], "x").SerializeToString())
    (folder / "script.py").write_text(
        "import numpy as np\n\ndef feeds():\n    for x in np.load('data.npz')['x']:\n        yield {'x': x[None]}\n"
    )
    onnx.save(nets.build(RECURRENT, {"w": (6, 12), "v": (12, 12), "z": (12, 5)}), folder / "recurrent.onnx")
    onnx.save(nets.build(TEXT, {"table": (9, 6), "v": (6, 12), "z": (12, 5)}), folder / "text.onnx")
    np.savez(folder / "steps.npz", x=nets.noise(64, 6))
    return folder


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(files, command):
    program, *arguments = shlex.split(command)
    assert program == "onnxpfp"
    result = CliRunner().invoke(main, [*arguments, "--force", "--no-latency"])
    assert result.exit_code == 0, result.stderr
    assert (files / "out.onnx").read_bytes() != cli_models.EXISTING
