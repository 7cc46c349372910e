"""Saving is cut short before every one of its steps, by a kill or by a full disk: what is there is whole."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp
from onnxpfp.errors import OutputError
from onnxpfp.model.load import load
from onnxpfp.runtime.scratch import PREFIX

DATA = nets.noise(8, 3, 8, 8)
WIDE: dict[str, Any] = {"w1": (32, 3, 3, 3), "b1": (32,), "w2": (40, 32, 3, 3), "w3": (5, 40), "b3": (5,)}
STEPS = ("open", "fsync", "rename", "replace", "unlink", "link", "chmod")
"""Functions of `os` that change something on a disk or bring it there."""
LEFT = re.compile(rf"{re.escape(PREFIX)}.*|out\.onnx\.[0-9a-f]{{8}}\.data")
"""What a kill may leave behind, as docs/files.md says."""


def source(folder: Path, external: bool) -> Path:
    path = folder / "in.onnx"
    options: Any = {"save_as_external_data": external, "location": "in.bin", "size_threshold": 1024} if external else {}
    onnx.save(nets.build(nets.CHAIN, WIDE), path, **options)
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["new outside", "new alone"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, bool]:
    """An earlier result, whose weights lie outside, and a new one."""
    folder = tmp_path_factory.mktemp("sources")
    old = onnxpfp.prune(source(folder, True), calibration=DATA, keep_macs=0.8)
    (folder / "new").mkdir()
    new = onnxpfp.prune(source(folder / "new", request.param), calibration=DATA, keep_macs=0.6)
    return old, new, request.param


def stopping(at: int, stop: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stop before the step of this number; returns the steps, which are added as they come."""
    steps: list[str] = []
    for name in STEPS:
        original = getattr(os, name)

        def step(*args: Any, _name: str = name, _original: Any = original, **more: Any) -> Any:
            reading = _name == "open" and not args[1] & os.O_CREAT
            if not reading:
                steps.append(_name)
                if len(steps) == at:
                    stop()
            return _original(*args, **more)

        monkeypatch.setattr(os, name, step)
    return steps


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    raise OSError(28, "No space left on device")


def outputs(path: Path) -> np.ndarray:
    """What the network at a path computes, with the weights that it refers to."""
    return nets.run(load(path).model, DATA)


@pytest.mark.parametrize("exists", ["nothing", "outside", "alone"])
def test_a_kill_leaves_a_whole_output(results: Any, exists: str, tmp_path: Path) -> None:
    old, new, external = results
    expected = nets.run(new.model, DATA)
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        target = folder / "out.onnx"
        before = _before(old, exists, target)
        child = os.fork()
        if not child:
            with pytest.MonkeyPatch.context() as patch:
                stopping(at, kill, patch)
                onnxpfp.save_result(new, target)
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if not target.exists():
            assert before is None
        else:
            found = outputs(target)
            assert (before is not None and np.array_equal(found, before)) or np.array_equal(found, expected), at
        named = {path.name for path in load(target).read} if target.exists() else set()
        stale = {path.name for path in folder.iterdir()} - named
        # The old weights belong to the old output until it is replaced, and go right after it.
        assert all(LEFT.fullmatch(name) or name == "out.onnx.data" for name in stale), (at, stale)
        for name in stale - {"out.onnx.data"}:
            (folder / name).unlink()
        onnxpfp.save_result(new, target)
        assert np.array_equal(outputs(target), expected)
        left = {path.name for path in folder.iterdir()}
        # A model that holds its weights cannot tell that those beside it were the old one's.
        assert left == {"out.onnx", "out.onnx.data"} if external else left <= {"out.onnx", *stale}
    assert at > (8 if external else 4)


@pytest.mark.parametrize("exists", ["nothing", "outside", "alone"])
def test_a_full_disk_leaves_what_was_there(results: Any, exists: str, tmp_path: Path) -> None:
    old, new, external = results
    expected = nets.run(new.model, DATA)
    for at in itertools.count(1):
        folder = tmp_path / str(at)
        folder.mkdir()
        target = folder / "out.onnx"
        _before(old, exists, target)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.MonkeyPatch.context() as patch:
            steps = stopping(at, fill, patch)
            failure = _failure(new, target)
        if failure is not None:
            assert str(failure).endswith("cannot be written: No space left on device")
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, (at, steps)
            continue
        assert np.array_equal(outputs(target), expected)
        # Where the disk became full when all was there, the weights keep the name that they had meanwhile.
        stale = {path.name for path in folder.iterdir()} - {path.name for path in load(target).read}
        assert not stale or steps[at - 1] in {"unlink", "fsync"}, (at, steps)
        assert stale <= {"out.onnx.data"} or steps[at - 1] == "unlink", (at, steps)
        if len(steps) < at:
            assert sorted(path.name for path in folder.iterdir()) == (
                ["out.onnx", "out.onnx.data"] if external else ["out.onnx"]
            )
            break


def _failure(result: Any, target: Path) -> OutputError | None:
    try:
        onnxpfp.save_result(result, target)
    except OutputError as error:
        return error
    return None


def _before(old: Any, exists: str, target: Path) -> np.ndarray | None:
    """Write the earlier result; returns what it computes."""
    if exists == "nothing":
        return None
    if exists == "alone":
        onnx.save(old.model, target)
    else:
        onnxpfp.save_result(old, target)
    return outputs(target)


def test_weights_of_somebody_else_are_not_overwritten(results: Any, tmp_path: Path) -> None:
    _, new, external = results
    target, beside = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    for model in (None, nets.chain()):
        if model is not None:
            onnx.save(model, target)
        beside.write_bytes(b"precious")
        if not external:
            onnxpfp.save_result(new, target)
            assert beside.read_bytes() == b"precious"
            continue
        with pytest.raises(OutputError) as failure:
            onnxpfp.save_result(new, target)
        assert str(failure.value) == f"{target}: its weights would overwrite {beside}, which is none of out.onnx's"
        assert failure.value.hint == "give OUT another name, or --force to overwrite it"
        assert beside.read_bytes() == b"precious"
        onnxpfp.save_result(new, target, force=True)
        assert np.array_equal(outputs(target), nets.run(new.model, DATA))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
        target.unlink()


def test_a_disk_without_second_names_keeps_the_first(
    results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, external = results
    if not external:
        pytest.skip("one file")
    target = tmp_path / "out.onnx"
    monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    for result in (old, new, old):
        onnxpfp.save_result(result, target)
        assert np.array_equal(outputs(target), nets.run(result.model, DATA))
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(names) == 2
        assert re.fullmatch(r"out\.onnx\.[0-9a-f]{8}\.data", names[1])
