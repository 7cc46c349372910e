from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import cli_models
import onnx
import pytest


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", "x" * 100)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"", "it is an empty file", "export it again"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "it is a PNG image", "give the .onnx file"),
        (_zip(), "it is a zip archive", "give the .onnx file"),
        (LFS, "it is a pointer of Git LFS", "git lfs pull"),
        (b"hello world, this is text\n", "is not an ONNX model", "export it again"),
        (b"\xff" * 200, "is not an ONNX model", "export it again"),
        (b"\x08\x07", "it names no IR version, opset or graph", "export it again"),
    ],
    ids=["empty", "png", "zip", "lfs", "text", "noise", "version only"],
)
def test_what_is_no_onnx_file(folder, refuse, content, says, hint):
    (folder / "bad.onnx").write_bytes(content)
    found = refuse("bad.onnx", "out.onnx")
    assert found.error.startswith("bad.onnx: is not an ONNX model")
    assert says in found.error
    assert hint in found.hint


def test_a_truncated_model_at_any_length(folder, refuse):
    whole = (folder / "in.onnx").read_bytes()
    for length in {1, 2, 3, 7, 50, len(whole) // 2, len(whole) - 100, len(whole) - 7, len(whole) - 1}:
        (folder / "cut.onnx").write_bytes(whole[:length])
        found = refuse("cut.onnx", "out.onnx")
        assert found.error.startswith("cut.onnx: is ")
        assert "cut off" in found.error, length
        assert found.hint == "export it again, or copy it again"


def test_a_missing_model_and_a_directory(refuse):
    assert refuse("nowhere.onnx", "out.onnx").error == "nowhere.onnx: there is no such file"
    assert refuse("/", "out.onnx").error == "/: cannot be read: Is a directory"


def test_an_empty_graph(folder, refuse):
    model = cli_models.chain()
    del model.graph.node[:]
    onnx.save(model, folder / "empty.onnx")
    assert refuse("empty.onnx", "out.onnx").error == "empty.onnx: the graph is empty: it has no nodes"
    model = cli_models.chain()
    del model.graph.output[:]
    onnx.save(model, folder / "mute.onnx")
    assert refuse("mute.onnx", "out.onnx").error == "mute.onnx: the graph has no outputs"


def _short_weight() -> onnx.ModelProto:
    model = cli_models.chain()
    weight = model.graph.initializer[0]
    weight.raw_data = weight.raw_data[:-8]
    return model


def _dangling() -> onnx.ModelProto:
    model = cli_models.chain()
    model.graph.node[1].input[0] = "nowhere"
    return model


def _wrong_weight() -> onnx.ModelProto:
    return cli_models.build(cli_models.CHAIN.format(op="Relu"), {"w1": (6, 3, 3, 3), "w2": (4, 5, 3, 3)})


def _unknown_domain() -> onnx.ModelProto:
    model = cli_models.chain()
    model.graph.node[1].domain = "com.acme"
    model.opset_import.append(onnx.helper.make_opsetid("com.acme", 1))
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (cli_models.chain(op="Foo"), "No Op registered for Foo"),
        (cli_models.chain(opset=99), "Opset 99 is under development"),
        (cli_models.chain(ir=99), "Unsupported model IR version: 99, max supported IR version: "),
        (_dangling(), "Node input 'nowhere' is not"),
        (_short_weight(), "the weight 'w1' does not have the numbers that its shape [6, 3, 3, 3] says"),
        (_wrong_weight(), "kernel channels: 5"),
        (_unknown_domain(), "com.acme:Relu(-1) is not a registered function/op"),
    ],
    ids=["op", "opset", "ir", "dangling", "short weight", "wrong weight", "domain"],
)
def test_a_model_that_does_not_load_says_why(folder, refuse, model, says):
    onnx.save(model, folder / "bad.onnx")
    found = refuse("bad.onnx", "out.onnx")
    assert found.error.startswith("bad.onnx: ")
    assert says in found.error


def test_missing_external_data(folder, refuse):
    cli_models.save_external(folder, "far")
    (folder / "far.data").unlink()
    found = refuse("far.onnx", "out.onnx")
    assert found.error == "far.onnx: the weight 'w1' lies in far.data, which is missing"
    assert found.hint == "put far.data beside the model"


def test_truncated_external_data(folder, refuse):
    path: Path = cli_models.save_external(folder, "far")
    data = path.with_suffix(".data")
    data.write_bytes(data.read_bytes()[:300])
    found = refuse("far.onnx", "out.onnx")
    assert found.error == "far.onnx: far.data is cut off: the weight 'w1' ends at byte 648, the file at 300"
    assert found.hint == "copy far.data again"


def test_a_model_with_nothing_to_prune(folder, refuse):
    relu = cli_models.build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }", {})
    onnx.save(relu, folder / "relu.onnx")
    found = refuse("relu.onnx", "out.onnx", code=3)
    assert found.error.startswith("relu.onnx: nothing in it can be pruned: ")
    gemm = cli_models.build("g (float[N,3] x) => (float[N,4] y) { y = Gemm(x, w) }", {"w": (3, 4)})
    onnx.save(gemm, folder / "gemm.onnx")
    found = refuse("gemm.onnx", "out.onnx", code=3)
    assert found.error == "gemm.onnx: nothing in it can be pruned: it is the graph output 'y'"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("more", [(), ("--input-shape", "1,3,8,8")])
def test_pipes_and_devices_are_not_waited_for(folder, refuse, more):
    os.mkfifo(folder.parent / "pipe")
    try:
        for path in (folder.parent / "pipe", Path("/dev/zero")):
            assert refuse(path, "out.onnx", *more).error == f"{path}: is no regular file"
    finally:
        (folder.parent / "pipe").unlink()


def test_names_steer_no_terminal(folder, prune, inspect):
    name = "\x1b[2J\u202eabc" + "n" * 1_000_000
    model = cli_models.chain()
    weight = model.graph.initializer[0]
    weight.name = model.graph.node[0].input[1] = model.graph.node[0].name = name
    onnx.save(model, folder / "odd.onnx")
    for result in (inspect("odd.onnx"), prune("odd.onnx", "out.onnx", "--keep-macs", "0.5", "-v")):
        assert result.exit_code == 0
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output
        assert "?[2J?abcnnn" in result.output.replace("\n", "").replace(" ", "")
        assert len(result.output) < 20_000
