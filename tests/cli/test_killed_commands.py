"""Whole commands are killed, interrupted and run out of disk at random moments: what they write is whole or as it was.

`ONNXPFP_KILLS=200 python -m pytest -m slow tests/cli/test_killed_commands.py` takes more moments.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import cli_models
import numpy as np
import onnx
import pytest

from onnxpfp.model.load import load

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

ROOT = str(Path(__file__).parents[2])
MOMENTS = int(os.environ.get("ONNXPFP_KILLS", "24"))
LEFT = re.compile(r"\.onnxpfp-.*|out\.onnx\.[0-9a-f]{8}\.data")
"""What a SIGKILL may leave; docs/files.md names it."""
WRITTEN = ("out.onnx", "out.onnx.data", "p.json", "r.json")
ARGUMENTS = ("prune", "in.onnx", "out.onnx", "--calib-data", "data.npz", "--plan", "p.json", "--json", "r.json")


def command(folder: Path, keep: float, **options: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    arguments = [sys.executable, "-m", "onnxpfp", *ARGUMENTS, "--keep-macs", str(keep)]
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload]


def heard() -> None:
    """Let Ctrl-C be heard where whoever started the tests in the background had it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for the end; returns the exit code and what it printed, but for notes."""
    with process:
        error = process.communicate()[1].decode()
    lines = [line for line in error.splitlines(keepends=True) if not line.startswith("Note: ")]
    return process.returncode, "".join(lines)


def prepare(folder: Path) -> None:
    """Write an input whose weights lie outside, and its data."""
    (folder / "tmp").mkdir()
    wide = cli_models.build(cli_models.CHAIN.format(op="Relu"), {"w1": (400, 3, 3, 3), "w2": (4, 400, 3, 3)})
    onnx.save(wide, folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    np.savez(folder / "data.npz", x=cli_models.images())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """Folders as two commands leave them, and how long the second takes."""
    old = tmp_path_factory.mktemp("old")
    prepare(old)
    assert ended(command(old, 0.8)) == (0, "")
    new = tmp_path_factory.mktemp("new") / "new"
    shutil.copytree(old, new)
    since = time.monotonic()
    assert ended(command(new, 0.5)) == (0, "")
    return old, new, time.monotonic() - since


def content(folder: Path) -> dict[str, bytes]:
    """Everything that was written, but for times and for the names of the files."""
    found: dict[str, bytes] = {}
    if (folder / "out.onnx").exists():
        model = load(folder / "out.onnx").model
        found["model"] = model.SerializeToString(deterministic=True)
    for name in ("p.json", "r.json"):
        if (folder / name).exists():
            document = json.loads((folder / name).read_text())
            document.pop("seconds", None)
            found[name] = json.dumps(document, sort_keys=True).encode()
    return found


def check(folder: Path, old: Path, new: Path, *, clean: bool) -> str:
    """Make sure that everything is whole; returns which of the two models it is."""
    now, before, after = content(folder), content(old), content(new)
    for name, value in now.items():
        assert value in (before[name], after[name]), name
    assert set(now) == set(before)
    read = {path.name for path in load(folder / "out.onnx").read}
    stale = {path.name for path in folder.iterdir()} - read - {path.name for path in old.iterdir()}
    stale |= {f"tmp/{path.name}" for path in (folder / "tmp").iterdir() if path.name != ".ses"}
    assert not (clean and stale), stale
    assert all(LEFT.fullmatch(name.removeprefix("tmp/")) for name in stale), stale
    return "new" if now["model"] == after["model"] else "old"


@pytest.mark.parametrize("how", ["kill", "kill all", "interrupt", "terminate"])
def test_ended_at_any_moment(finished: tuple[Path, Path, float], how: str, tmp_path: Path) -> None:
    old, new, seconds = finished
    rng = random.Random(how)
    kept: list[str] = []
    for number in range(-(-MOMENTS // 4)):
        folder = tmp_path / str(number)
        shutil.copytree(old, folder)
        process = command(folder, 0.5, start_new_session=True, preexec_fn=heard)
        if number % 2:
            time.sleep(rng.uniform(0.1, 1.1) * seconds)
        else:
            # In the moments in which files are written, which a clock seldom meets.
            while process.poll() is None and not any(folder.glob(".onnxpfp-*")):
                time.sleep(0.0005)
            time.sleep(rng.choice((0, rng.uniform(0, 0.03))))
        since = time.monotonic()
        running = process.poll() is None
        if how == "kill all":
            os.killpg(process.pid, signal.SIGKILL) if running else None
        else:
            process.send_signal({"kill": 9, "interrupt": 2, "terminate": 15}[how])
        _, error = ended(process)
        assert time.monotonic() - since < (5 if os.environ.get("ONNXPFP_BUSY") else 1)
        if process.returncode and not how.startswith("kill"):
            assert (process.returncode, error) in [(130, "Error: interrupted\n"), (143, "Error: terminated\n")]
        kept.append(check(folder, old, new, clean=not how.startswith("kill")))
        assert process.returncode or kept[-1] == "new"
        shutil.rmtree(folder)
    print(how, {which: kept.count(which) for which in set(kept)})


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Path]:
    """A folder that a small disk can be mounted on; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs root to mount")
    yield folder
    subprocess.run(["umount", folder], check=False, capture_output=True)


def test_a_disk_that_is_full(finished: tuple[Path, Path, float], disk: Path) -> None:
    old, new, _ = finished
    needed = sum((new / name).stat().st_size for name in WRITTEN)
    rng = random.Random(0)
    kept: list[str] = []
    for _ in range(max(8, MOMENTS // 4)):
        options = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk]
        if subprocess.run(options, check=False, capture_output=True).returncode:
            pytest.skip("cannot mount a tmpfs")
        shutil.copytree(old, disk, dirs_exist_ok=True)
        left = rng.randrange(0, 2 * needed)
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - left))
        process = command(disk, 0.5)
        _, error = ended(process)
        if process.returncode:
            assert process.returncode == 1, error
            assert "No space left on device" in error
            assert len(error.splitlines()) <= 2, error
        (disk / "filler").unlink()
        kept.append(check(disk, old, new, clean=True))
        subprocess.run(["umount", disk], check=True)
    print("disk", {which: kept.count(which) for which in set(kept)})
    assert len(set(kept)) == 2


def test_files_that_may_not_grow(finished: tuple[Path, Path, float], tmp_path: Path) -> None:
    old, new, _ = finished
    largest = max((new / name).stat().st_size for name in WRITTEN)
    rng = random.Random(0)
    kept: list[str] = []
    for number in range(max(4, MOMENTS // 8)):
        folder = tmp_path / str(number)
        shutil.copytree(old, folder)
        limit = rng.randrange(0, int(1.2 * largest))
        process = command(folder, 0.5, preexec_fn=lambda n=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)))
        _, error = ended(process)
        if process.returncode:
            assert process.returncode == 1, error
            assert "File too large" in error
        kept.append(check(folder, old, new, clean=True))
    print("limit", {which: kept.count(which) for which in set(kept)})
