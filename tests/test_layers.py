"""Arrows between the packages point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "onnxpfp"
PURE = [
    *sorted((PACKAGE / "score").glob("*.py")),
    *sorted((PACKAGE / "allocation").glob("*.py")),
    *sorted((PACKAGE / "sipp").glob("*.py")),
    *(PACKAGE / "low_rank" / f"{name}.py" for name in ("alternate", "factor", "limit", "moments", "ranks")),
]
BASE = [
    "errors",
    "arrays",
    "counted",
    "supervision",
    "time_limit",
    "progress",
    "options",
    "installation",
]
ORDER = [
    *BASE,
    *(
        "runtime",
        "model",
        "channels",
        "rewrite",
        "data",
        "bodies",
        "linear",
        "score",
        "allocation",
        "sipp",
        "comparison",
        "calibrate",
    ),
    *("lossless", "low_rank", "refit", "pipeline", "report", "api", "cli"),
]
"""From what knows least to what knows most; a package may import only what stands before it."""
ENTRIES = {"__init__", "__main__"}
"""The face of the package and its program, which stand above all."""


def imported(file: Path) -> set[str]:
    """Names of the modules that a file imports when it is loaded or used."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", PURE, ids=lambda file: file.stem)
def test_scoring_allocation_selection_and_factors_are_pure_numpy(file: Path) -> None:
    names = imported(file)
    assert not [name for name in names if name.split(".")[0] in {"onnx", "onnxruntime", "onnx_graphsurgeon"}]
    allowed = (
        "onnxpfp.arrays",
        "onnxpfp.score",
        "onnxpfp.allocation",
        "onnxpfp.low_rank",
        "onnxpfp.errors",
        "onnxpfp.sipp",
    )
    assert not [name for name in names if name.startswith("onnxpfp") and not name.startswith(allowed)]


def test_the_order_has_every_package() -> None:
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert names - ENTRIES == set(ORDER)


@pytest.mark.parametrize("layer", ORDER)
def test_a_package_imports_only_what_stands_before_it(layer: str) -> None:
    files = sorted((PACKAGE / layer).rglob("*.py")) or [PACKAGE / f"{layer}.py"]
    later = {f"onnxpfp.{name}" for name in ORDER[ORDER.index(layer) + 1 :]}
    for file in files:
        for name in imported(file):
            assert ".".join(name.split(".")[:2]) not in later, f"{file.name} imports {name}"


REPEATED = {"RULES"}
"""Every family of op rules has its table under this name; `channels.ops` joins them."""


def public_definitions(file: Path) -> set[str]:
    """Names of `__all__` that a module defines itself."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    listed: set[str] = set()
    defined: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined.add(node.targets[0].id)
            if node.targets[0].id == "__all__":
                listed = set(ast.literal_eval(node.value))
    return listed & defined


def test_no_public_name_is_defined_in_two_modules() -> None:
    modules: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for name in public_definitions(file) - REPEATED:
            modules.setdefault(name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in modules.items() if len(files) > 1} == {}


def test_types_of_arrays_are_named_in_one_module() -> None:
    named = re.compile(r"^\w+ = NDArray\[np\.(?!object_)\w+\]$", re.MULTILINE)
    modules = [file.stem for file in PACKAGE.rglob("*.py") if named.search(file.read_text(encoding="utf-8"))]
    assert modules == ["arrays"]
