"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp
from onnxpfp.errors import OutputError
from onnxpfp.model.load import load

DATA = nets.noise(8, 3, 8, 8)
WIDE: dict[str, Any] = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (40, 32, 3, 3), "w3": (5, 40), "b3": (5,)}


@pytest.fixture(scope="module")
def result() -> onnxpfp.Result:
    return onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.6)


def external(folder: Path, name: str = "in") -> Path:
    """Save a model with its larger weights in a file of their own."""
    path = folder / f"{name}.onnx"
    model = nets.build(nets.CHAIN, WIDE)
    onnx.save(model, path, save_as_external_data=True, location=f"{name}.bin", size_threshold=1024)
    return path


def fail(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("outside", [False, True])
def test_a_failure_leaves_what_was_there(
    result: onnxpfp.Result, broken: str, exists: bool, outside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outside:
        result = onnxpfp.prune(external(tmp_path), calibration=DATA, keep_macs=0.6)
    target = tmp_path / "out" / "out.onnx"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"before")
        (target.parent / "out.onnx.data").write_bytes(b"weights before")
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        onnxpfp.save_result(result, target, force=True)
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


@pytest.mark.parametrize("call", [1, 2])
def test_old_weights_stay_until_the_new_model_is_whole(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = onnxpfp.prune(external(tmp_path), calibration=DATA, keep_macs=0.6)
    target = tmp_path / "out.onnx"
    onnxpfp.save_result(onnxpfp.prune(external(tmp_path), calibration=DATA, keep_macs=0.8), target)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls: list[int] = []
    fsync = os.fsync

    def sometimes(file: int) -> None:
        calls.append(file)
        if len(calls) == call:
            fail()
        fsync(file)

    monkeypatch.setattr(os, "fsync", sometimes)
    with pytest.raises(OutputError, match="No space left"):
        onnxpfp.save_result(found, target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_new_file_has_the_rights_of_a_new_file(result: onnxpfp.Result, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out.onnx")}
    assert len(modes) == 1


def test_an_existing_file_keeps_its_rights(result: onnxpfp.Result, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"before")
    (tmp_path / "out.onnx").chmod(0o640)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == 0o640
    assert onnx.load(tmp_path / "out.onnx") == result.model


def test_the_input_is_only_overwritten_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save(nets.chain(), path)
    before = path.read_bytes()
    found = onnxpfp.prune(path, calibration=DATA, keep_macs=0.6)
    (tmp_path / "link.onnx").symlink_to(path)
    for same in (path, tmp_path / "." / "in.onnx", tmp_path / "link.onnx"):
        with pytest.raises(OutputError, match="is the input itself"):
            onnxpfp.save_result(found, same, source=path)
    assert path.read_bytes() == before
    onnxpfp.save_result(found, path, source=path, force=True)
    assert onnx.load(path) == found.model


@pytest.mark.parametrize("where", ["missing/out.onnx", "file/out.onnx", "folder"])
def test_impossible_targets(result: onnxpfp.Result, where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError):
        onnxpfp.save_result(result, tmp_path / where)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_external_weights_stay_external(share: float, tmp_path: Path) -> None:
    source = external(tmp_path)
    inputs = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = onnxpfp.prune(source, calibration=DATA, keep_macs=share)
    target = tmp_path / "out" / "small.onnx"
    target.parent.mkdir()
    written = onnxpfp.save_result(found, target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["small.onnx", "small.onnx.data"]
    assert written == sum(path.stat().st_size for path in target.parent.iterdir())
    raw = onnx.load(target, load_external_data=False)
    assert {t.name for t in raw.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL} >= {"w2"}
    onnx.checker.check_model(str(target), full_check=True)
    back = load(target)
    assert back.external
    assert nets.weights(back.model).keys() == nets.weights(found.model).keys()
    for name, array in nets.weights(found.model).items():
        np.testing.assert_array_equal(nets.weights(back.model)[name], array)
    np.testing.assert_array_equal(nets.run(back.model, DATA), nets.run(found.model, DATA))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == inputs


def test_an_external_model_can_replace_itself(tmp_path: Path) -> None:
    source = external(tmp_path)
    found = onnxpfp.prune(source, calibration=DATA, keep_macs=0.6)
    onnxpfp.save_result(found, source, source=source, force=True)
    np.testing.assert_array_equal(nets.run(load(source).model, DATA), nets.run(found.model, DATA))


def test_the_size_of_an_external_model_counts_its_weights(tmp_path: Path) -> None:
    source = external(tmp_path)
    found = onnxpfp.prune(source, calibration=DATA, keep_macs=0.6)
    assert found.report.before.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    target = tmp_path / "out.onnx"
    written = onnxpfp.save_result(found, target)
    # The model in memory and the two files differ by how they spell where a weight lies.
    assert found.report.after.bytes == pytest.approx(written, rel=0.02)
