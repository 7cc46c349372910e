"""Freeze what the program gives, so that a refactoring can be held against it.

    python -m benchmarks.frozen record DIR [--quick] [--only PATTERN] [--repo REPO]
    python -m benchmarks.frozen compare DIR [--quick] [--only PATTERN] [--repo REPO] [--ignore PATTERN]

Every case runs the public API of whatever `onnxpfp` can be imported (PYTHONPATH decides) on one core, and a file of
DIR/cases holds what came out: the checksum of the written model, the report and the plan, or the error, without times,
versions and folders. `compare` runs all again, lists what differs and exits with 1 if anything does. REPO (or the
variable FROZEN_REPO) is the checkout whose models/ and ../shared are read. Numbers are compared exactly, so the
libraries and the machine must be those of the record; `compare` says where they are not.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import hashlib
import inspect
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import scipy

import onnxpfp

Options = Mapping[str, Any]

SAMPLES, DRAWN = 48, 16
"""Images for a trained network, and samples that are drawn for a graph of the zoo."""
UNTOLD = ("seconds", "latency", "versions", "file", "format")
"""Fields of a report that may change."""

SCORES = ("l1", "l2", "fpgm", "bn-scale", "lamp", "random", "wanda", "thinet", "hrank", "apoz", "chip")
BASELINES: dict[str, Options] = {score: {"score": score} for score in SCORES}
CHEAP: Options = {"allocate": "uniform", "compensate": "none"}  # What takes most of the time is left out.
CHEAP_BASELINES: dict[str, Options] = {f"{name}-cheap": {**one, **CHEAP} for name, one in BASELINES.items()}
NO_DATA: dict[str, Options] = {
    "no-data": {"calibration": None, "samples": None},
    "no-data-l2": {"calibration": None, "samples": None, "score": "l2", "keep_macs": None, "keep_params": 0.6},
}
SCORED: dict[str, Options] = {
    "default": {},
    "reconstruction": {"score": "reconstruction"},
    "energy": {"score": "energy", "keep_macs": 0.6},
    **NO_DATA,
    "bound": {"allocate": "bound"},
    "uncompensated": {"compensate": "none", "allocate": "bound", "keep_macs": 0.6},
}
METHODS: dict[str, Options] = {
    **SCORED,
    "sampled": {"select": "sampled", "keep_macs": 0.6},
    "mixed": {"select": "mixed", "keep_macs": 0.6},
    "steps": {"steps": 2},
    "steps-bound": {"steps": 2, "allocate": "bound", "score": "reconstruction"},
    "max": {"kernel": "max", "select": "deterministic", "allocate": "bound", "compensate": "none"},
    "bias": {"compensate": "bias"},
    "agreement": {"keep_macs": None, "min_agreement": 0.5},
    "drift": {"keep_macs": None, "max_drift": 0.7},
    "workspace": {"workspace": 4_000_000},
}
EXTRAS: dict[str, Options] = {
    "rounded": {"keep_macs": None, "keep_params": 0.6, "round_to": 4, "min_channels": 3, "allocate": "bound"},
    "include": {"include": ("block[345]*",), "allocate": "bound", "keep_macs": 0.8},
    "exclude": {"exclude": ("stem*", "block3.*"), "allocate": "bound", "keep_macs": 0.8},
    "seed": {"seed": 7, "select": "sampled", "allocate": "bound", "delta": 1e-3},
    "batches": {"batch_size": 5, "allocate": "bound", "samples": 23},
    "few": {"samples": 3},
    "random-data": {"calibration": "random"},
    "random-data-lstsq": {"calibration": "random", "compensate": "lstsq", "allocate": "measured"},
    "uniform": {"allocate": "uniform"},
    "all": {"keep_macs": 1.0},
    "drift-energy": {"keep_macs": None, "max_drift": 0.7, "score": "energy", "allocate": "bound"},
    "error-unreachable": {"keep_macs": 0.001, "allocate": "bound"},
    "error-nothing": {"exclude": ("*",)},
    "error-shape": {"calibration": np.zeros((9, 3, 5, 5), np.float32)},
}
DEEP: dict[str, Options] = {**NO_DATA, "wanda-cheap": {"score": "wanda", **CHEAP}}
NETWORKS: dict[str, dict[str, Options]] = {
    "fmnist_resnet": {**METHODS, **BASELINES},
    "fmnist_mobilenet": {**METHODS, **BASELINES, **EXTRAS},
    "fmnist_densenet": {**METHODS, **CHEAP_BASELINES},
    "cifar10_resnet20_bn": {**METHODS, **CHEAP_BASELINES},
    "cifar10_resnet20_folded": {**SCORED, **CHEAP_BASELINES},
    "cifar10_resnet20_dynamo": {**SCORED, **CHEAP_BASELINES},
    "cifar10_resnet56_bn": {**DEEP, "default": {"samples": 24}},
    "cifar10_resnet56_folded": {**DEEP, "bound-cheap": {"allocate": "bound", "compensate": "bias"}},
}
LARGE, SMALL = 9_000_000, 250_000
"""Bytes: larger graphs of the zoo are left out; smaller ones are also refitted, with samples as if from a user."""
WITH_ATTENTION = ("hf_[bgw]*", "keras_t*", "q_bert*", "timm_beit*", "timm_mobilevit*", "timm_vit*")
QUICK = ("prune/fmnist_r*", "*/error-*", "*-cheap", "*/no-data*", "*/width", "ins*", "*/[hkqst]*/random", "*/refitted")
NOT_QUICK = ("*resnet56*", "*/agreement", "*/drift", "*/steps*", "*yolo*", "prune/fmnist_resnet/[a-l]*", "*/hw_[dw]*")


@dataclass(frozen=True, slots=True)
class Case:
    """One run: what is called, on which model, under which name and with which options."""

    kind: str
    model: Path
    label: str
    options: Options

    @property
    def name(self) -> str:
        """Name of the case."""
        return f"{self.kind}/{self.model.stem}/{self.label}"


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def network_cases(repo: Path) -> Iterator[Case]:
    """Trained networks with real images."""
    for name, methods in NETWORKS.items():
        mine = name.startswith("fmnist")
        model = (repo if mine else repo.parent / "shared") / "models" / f"{name}.onnx"
        images: Options = {"calibration": repo / "models/fmnist_calibration.npz", "samples": SAMPLES}
        data = images if mine else {"calibration": cifar_images(repo)}
        for label, options in methods.items():
            yield Case("prune", model, label, {**data, "keep_macs": 0.5, **options})
        yield Case("inspect", model, "default", {})
        if name == "fmnist_mobilenet":
            yield Case("replay", model, "sampled", {**data, "select": "sampled", "allocate": "bound"})
            yield Case("object", model, "bound", {**data, "allocate": "bound"})
            yield Case("prunability", model, "default", data)
        if name == "fmnist_resnet":
            yield Case("prunability", model, "l1", {**data, "score": "l1", "compensate": "none", "tolerance": 0.1})


def zoo_cases(zoo: Path, folder: Path) -> Iterator[Case]:
    """Untrained graphs of many architectures with noise; the folder keeps them unpacked."""
    if not (folder / "whole").exists():
        subprocess.run([sys.executable, zoo / "unpack.py", zoo / "zoo.zip", folder], check=True)
        (folder / "whole").touch()
    noise: Options = {"calibration": "random", "samples": 8, "keep_macs": 0.7}
    for model in sorted(folder.glob("*.onnx")):
        if model.stat().st_size > LARGE:
            continue
        yield Case("inspect", model, "default", {})
        yield Case("prune", model, "random", noise)
        if matches(model.stem, WITH_ATTENTION):
            yield Case("inspect", model, "width", {"attention": "width"})
            yield Case("prune", model, "width", {**noise, "attention": "width"})
        if model.stat().st_size < SMALL:
            yield Case("prune", model, "refitted", {"calibration": drawn_samples, "keep_macs": 0.7})


def cifar_images(repo: Path) -> np.ndarray:
    """Return the first images of the calibration file, normalised as shared/README.md says."""
    with np.load(repo.parent / "shared/data/cifar10_calib1k.npz") as stored:
        images = stored["images"][:SAMPLES] / 255.0
    scaled = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def drawn_samples(model: Path) -> dict[str, np.ndarray]:
    """Draw samples for every input of a model."""
    types = {i.name: i.type.tensor_type.elem_type for i in onnx.load(model).graph.input}
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, shape in onnxpfp.inspect(model).inputs.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name])
        size = (DRAWN, *shape[1:])
        whole = np.ones(size) if "mask" in name else rng.integers(0, 20, size)
        found[name] = (rng.normal(size=size) if dtype.kind == "f" else whole).astype(dtype)
    return found


def told(document: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what may change."""
    return {key: value for key, value in document.items() if key not in UNTOLD}


def pruned(case: Case, model: Path | onnx.ModelProto, options: Options) -> Any:
    """Prune with one thread."""
    calibration = options["calibration"]
    data = calibration(case.model) if callable(calibration) else calibration
    return onnxpfp.prune(model, **{**options, **untimed(onnxpfp.prune), "calibration": data, "threads": 1})


def untimed(verb: Callable[..., Any]) -> dict[str, bool]:
    """Return the options with which a verb measures no latency, of which notes and fields tell what changes."""
    return {"no_latency": True} if "no_latency" in inspect.signature(verb).parameters else {}


def written(result: Any) -> dict[str, Any]:
    """Return all that a pruning gives."""
    with tempfile.TemporaryDirectory() as folder:
        onnxpfp.save_result(result, Path(folder) / "out.onnx")
        files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).iterdir())}
    return {"bytes": files, "report": told(result.report.to_dict()), "plan": json.loads(result.plan.to_json())}


def replayed(case: Case) -> Any:
    """Prune, and prune once more by the plan."""
    plan = pruned(case, case.model, case.options).plan
    return pruned(case, case.model, {"calibration": case.options["calibration"], "from_plan": plan})


def prunability(case: Case) -> Any:
    """Measure under whichever name there is; a module may have it, too."""
    found = (getattr(onnxpfp, name, None) for name in ("prunability", "sensitivity"))
    return next(each for each in found if callable(each))(case.model, threads=1, **case.options)


KINDS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "prune": lambda case: written(pruned(case, case.model, case.options)),
    "object": lambda case: written(pruned(case, onnx.load(case.model), case.options)),
    "replay": lambda case: written(replayed(case)),
    "inspect": lambda case: {
        "report": told(onnxpfp.inspect(case.model, **case.options, **untimed(onnxpfp.inspect)).to_dict())
    },
    "prunability": lambda case: {"report": told(prunability(case).to_dict())},
}


def outcome(case: Case) -> dict[str, Any]:
    """Run a case; folders are left out of all texts."""
    try:
        found = KINDS[case.kind](case)
    except Exception as error:
        found = {"error": type(error).__name__, "message": str(error), "hint": getattr(error, "hint", None)}
    return json.loads(json.dumps(found).replace(f"{case.model.parent}/", ""))


def differences(one: Any, two: Any, path: str = "") -> Iterator[str]:
    """Name every field that differs, with both values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in dict.fromkeys([*one, *two]):
            yield from differences(one.get(key, "MISSING"), two.get(key, "MISSING"), f"{path}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for index, pair in enumerate(zip(one, two, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif one != two or type(one) is not type(two):
        yield f"{path}: {str(one)[:100]} -> {str(two)[:100]}"


def run(cases: Sequence[Case], folder: Path, *, recording: bool, ignore: str) -> int:
    """Run the cases, write them down or print what differs, and return how many do; times are those of the CPU."""
    differing = 0
    for number, case in enumerate(cases, 1):
        start, file, result = time.process_time(), folder / f"{case.name.replace('/', '.')}.json", outcome(case)
        if recording:
            file.write_text(json.dumps(result, indent=1))
        before = json.loads(file.read_text()) if file.exists() else {}
        found = [d for d in differences(before, result) if not fnmatch(d.split(": ")[0], ignore)]
        differing += bool(found)
        print(f"{number}/{len(cases)} {time.process_time() - start:.1f} s {case.name}", file=sys.stderr, flush=True)
        if found:
            print("\n    ".join([f"DIFFERS {case.name} in {len(found)} fields", *found[:6]]), flush=True)
    return differing


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("FROZEN_REPO", Path(__file__).resolve().parents[1])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="a subset that takes about a minute")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cases by name, as in prune/fmnist_*/default")
    parser.add_argument("--ignore", default="", metavar="PATTERN", help="fields that may differ, as in report.notes*")
    parser.add_argument("--repo", type=Path, default=Path(here))
    return parser.parse_args()


def main() -> int:
    warnings.simplefilter("ignore")
    wanted = arguments()
    repo, folder, recording = wanted.repo.resolve(), wanted.folder.resolve(), wanted.action == "record"
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    every = [*network_cases(repo), *zoo_cases(repo.parent / "shared/zoo", folder / "zoo")]
    if wanted.quick:
        every = [c for c in every if matches(c.name, QUICK) and not matches(c.name, NOT_QUICK)]
    cases = [c for c in every if fnmatch(c.name, wanted.only)]
    print(f"{wanted.action}: {len(cases)} cases of {onnxpfp.__file__}", flush=True)
    around = {each.__name__: each.__version__ for each in (np, onnx, onnxruntime, scipy)}
    around["machine"] = platform.platform()
    if recording:
        (folder / "about.json").write_text(json.dumps(around, indent=1))
    for other in differences(json.loads((folder / "about.json").read_text()), around):
        print(f"recorded elsewhere: {other}")
    differing = run(cases, folder / "cases", recording=recording, ignore=wanted.ignore)
    same = f"{'recorded' if recording else 'the same'}: {len(cases)} cases"
    print(f"{differing} of {len(cases)} cases differ" if differing else same)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
