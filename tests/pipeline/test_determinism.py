"""Same seed, same bytes; keeping everything gives the input's bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import onnx
import pytest

import onnxpfp

SELECT = ("deterministic", "sampled", "mixed", "auto")
DATA = nets.noise(24, 3, 8, 8)


def prune(select: str, seed: int = 0, **options: object) -> onnxpfp.Result:
    return onnxpfp.prune(nets.chain(), calibration=DATA, keep_macs=0.5, select=select, seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("select", SELECT)
def test_the_same_seed_gives_the_same_bytes(select: str) -> None:
    one, two = prune(select, 3), prune(select, 3)
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert one.plan.to_json() == two.plan.to_json()


@pytest.mark.parametrize("select", ["sampled", "mixed"])
def test_another_seed_draws_others(select: str) -> None:
    # The data are all seen, none is held out, so that the seed changes the draws alone.
    found = {
        onnxpfp.prune(nets.chain(), calibration=DATA[:3], keep_macs=0.5, select=select, seed=seed).plan.to_json()  # type: ignore[arg-type]
        for seed in range(6)
    }
    assert len(found) > 1


def test_another_seed_changes_nothing_where_nothing_is_drawn() -> None:
    plans = [
        onnxpfp.prune(nets.chain(), calibration=DATA[:3], keep_macs=0.5, select="deterministic", seed=seed).plan
        for seed in range(3)
    ]
    # That the seed was given is noted.
    assert len({replace(plan, made_by={}).to_json() for plan in plans}) == 1


@pytest.mark.parametrize(
    ("name", "allocate"),
    [("resnet", "bound"), ("densenet", "bound"), ("mobilenet", "bound"), ("resnet", "measured")],
)
def test_threads_do_not_change_the_plan(name: str, allocate: Any) -> None:
    given: dict[str, Any] = {"calibration": nets.CALIBRATION, "samples": 24, "allocate": allocate, "compensate": "bias"}
    plans = [onnxpfp.prune(nets.network(name), **given, threads=threads).plan for threads in (1, 2)]
    assert plans[0].initializers == plans[1].initializers


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_threads_do_not_change_a_byte(name: str) -> None:
    given: dict[str, Any] = {"calibration": nets.CALIBRATION, "samples": 32, "keep_macs": 0.5, "no_latency": True}
    models = [onnxpfp.prune(nets.network(name), **given, threads=threads).model for threads in (1, 2, 5)]
    assert len({model.SerializeToString(deterministic=True) for model in models}) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [("densenet", {"select": "sampled", "allocate": "bound", "compensate": "none"}), ("resnet", {"keep_macs": 0.9})],
    ids=["drawn", "measured and refitted"],
)
def test_another_process_gives_the_same_bytes(name: str, options: dict[str, Any]) -> None:
    # The other process knows the true CPU.
    options = {"round_to": 8} | options
    code = (
        f"import nets, onnxpfp, hashlib; r = onnxpfp.prune(nets.network({name!r}), calibration=nets.CALIBRATION, "
        f"samples=16, threads=1, **{options!r}); print(hashlib.sha256(r.model.SerializeToString()).hexdigest())"
    )
    # What the number of BLAS threads is set by stays: sums of a refit come in another order with more of them.
    path = os.environ | {"PYTHONPATH": f"{nets.ROOT}:{nets.ROOT / 'tests'}", "PYTHONHASHSEED": "7"}
    ran = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    here = onnxpfp.prune(nets.network(name), calibration=nets.CALIBRATION, samples=16, threads=1, **options)
    assert ran.stdout.strip() == hashlib.sha256(here.model.SerializeToString()).hexdigest()


@pytest.mark.parametrize("calibration", [None, nets.CALIBRATION, "random"])
@pytest.mark.parametrize("target", [{"keep_macs": 1.0}, {"keep_params": 1.0}])
@pytest.mark.parametrize("select", ["auto", "sampled"])
def test_keeping_everything_gives_the_bytes_of_the_input(
    calibration: Path | str | None, target: dict[str, float], select: str, tmp_path: Path
) -> None:
    source = nets.network("resnet")
    data = {} if calibration is None else {"calibration": calibration, "samples": 16}
    result = onnxpfp.prune(source, **data, select=select, **target)  # type: ignore[arg-type]
    written = onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert written == source.stat().st_size
    assert result.plan.initializers == {}
    assert result.report.before == result.report.after
    assert result.report.oracle.error == 0


def test_keeping_everything_keeps_even_odd_bytes(tmp_path: Path) -> None:
    # Fields in an order in which protobuf does not write them: a parse and a write would not give them back.
    data = nets.chain().SerializeToString()
    parts = onnx.ModelProto(producer_name="odd").SerializeToString()
    (tmp_path / "in.onnx").write_bytes(data + parts)
    assert onnx.load(tmp_path / "in.onnx").SerializeToString() != data + parts
    result = onnxpfp.prune(tmp_path / "in.onnx", calibration=DATA, keep_macs=1.0)
    onnxpfp.save_result(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == data + parts
