"""What a program that imports onnxpfp sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nets
import onnx
import pytest

import onnxpfp
from onnxpfp import errors

HEAVY = {"onnx", "onnxruntime", "numpy", "scipy", "onnx_graphsurgeon", "rich", "google.protobuf"}


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the modules that it loaded."""
    code += "\nimport sys; print(*sys.modules)"
    options = {"capture_output": True, "text": True, "check": True, "env": {"PYTHONPATH": str(nets.ROOT)}}
    ran = subprocess.run([sys.executable, "-c", code], **options)  # type: ignore[call-overload]
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import onnxpfp",
        "import onnxpfp; onnxpfp.__version__; onnxpfp.OnnxPfpError",
        "from onnxpfp import errors",
        "from onnxpfp.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['prune', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['factorize', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['sparsify', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['inspect', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['prunability', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['verify', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['latency', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['score', '--help'])\nexcept SystemExit: pass",
        "from onnxpfp.cli.main import main\ntry: main(['merge', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_importing_is_light(code: str) -> None:
    assert not HEAVY & loaded_by(code)


def test_inspecting_runs_nothing(tmp_path: Path) -> None:
    """What is slow to load stays out: onnxruntime, and of scipy all but its graphs."""
    path = tmp_path / "in.onnx"
    onnx.save(nets.chain(), path)
    loaded = loaded_by(f"import onnxpfp; onnxpfp.inspect({str(path)!r})")
    assert {"onnx", "numpy", "scipy.sparse.csgraph"} <= loaded
    slow = {"onnxruntime", "onnx_graphsurgeon", "rich", "scipy.optimize", "scipy.special", "scipy.stats", "click"}
    assert not slow & loaded
    assert not {name for name in loaded if name.startswith("onnxpfp.refit")}


def test_the_names_load_on_demand() -> None:
    assert {"onnx", "numpy"} <= loaded_by("import onnxpfp; onnxpfp.prune")
    for name in onnxpfp.__all__:
        assert getattr(onnxpfp, name) is not None
    assert onnxpfp.prune.__module__ == onnxpfp.Result.__module__ == "onnxpfp.api.prune"
    with pytest.raises(AttributeError, match="module 'onnxpfp' has no attribute 'prunes'"):
        onnxpfp.prunes  # noqa: B018


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from onnxpfp import *", names)
    assert set(onnxpfp.__all__) <= set(names)


def test_errors_have_exit_codes_and_hints() -> None:
    codes = {
        name: getattr(errors, name).exit_code for name in errors.__all__ if isinstance(getattr(errors, name), type)
    }
    special = {"OptionError": 2, "TargetUnreachableError": 3, "VerificationError": 4, "TimeLimitError": 124}
    assert codes == {name: special.get(name, 1) for name in codes}
    assert set(special) | {"ModelError", "CalibrationError", "ProviderError", "PlanError", "OutputError"} <= set(codes)
    for name in codes:
        kind = getattr(errors, name)
        assert issubclass(kind, onnxpfp.OnnxPfpError)
        assert (str(kind("what", hint="do")), kind("what", hint="do").hint, kind("what").hint) == ("what", "do", "")


@pytest.mark.parametrize(
    "options",
    [
        {"keep_macs": 0.0},
        {"keep_macs": 1.5},
        {"keep_macs": -0.5},
        {"keep_macs": float("nan")},
        {"keep_params": 0.0},
        {"keep_size": 0},
        {"keep_size": 1.5},
        {"keep_size": -4_000_000},
        {"keep_size": float("inf")},
        {"keep_size": 4_000_000, "keep_macs": 0.5},
        {"keep_macs": 0.5, "keep_params": 0.5},
        {"select": "best"},
        {"kernel": "min"},
        {"compensate": "all"},
        {"delta": 0.0},
        {"delta": 1.0},
        {"threads": 0},
        {"round_to": 0},
        {"min_channels": 0},
        {"samples": 0},
        {"batch_size": 0},
        {"workspace": 512},
        {"seed": -1},
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(options: dict[str, object]) -> None:
    with pytest.raises(errors.OptionError):
        onnxpfp.prune("there is no such file.onnx", **options)  # type: ignore[arg-type]


def test_a_target_that_cannot_be_reached_says_what_can() -> None:
    with pytest.raises(errors.TargetUnreachableError, match=r"is the least that can be reached") as caught:
        onnxpfp.prune(nets.chain(), keep_macs=0.001)
    assert "ask for a target of at least 0." in caught.value.hint
    least = float(caught.value.hint.rsplit(" ", 1)[1].rstrip("."))
    assert onnxpfp.prune(nets.chain(), keep_macs=least).report.after.macs > 0


def test_a_model_without_anything_to_prune_says_why() -> None:
    model = nets.build("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    with pytest.raises(errors.TargetUnreachableError, match="nothing in it can be pruned"):
        onnxpfp.prune(model)
