"""docs/supported-ops.md says what the registry does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx.defs
import pytest

from onnxpfp.channels.ops import RULES, STAYS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "supported_ops.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("supported_ops", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(page: str, domain: str) -> dict[str, tuple[str, str]]:
    """Versions and text by op, of one table of the page."""
    section = page.split(f"## {domain}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (\w+) \|(?: ([^|]+) \|)? (.+) \|$", section, flags=re.MULTILINE)
    return {op: (versions, text) for op, versions, text in found if op != "op"}


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    if f"up to opset {onnx.defs.onnx_opset_version()}." not in page:
        pytest.skip("the page was made with an onnx of another opset")
    assert page == script.page(), f"run {script.COMMAND}"


def test_the_check_says_what_to_run(script: ModuleType, tmp_path: Path) -> None:
    copy = tmp_path / SCRIPT.name
    copy.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / script.PAGE.name).write_text("old\n", encoding="utf-8")
    command = [sys.executable, str(copy)]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    old = run("--check")
    assert (old.returncode, old.stdout) == (1, f"docs/{script.PAGE.name} is not up to date: run {script.COMMAND}\n")
    assert run().returncode == 0
    assert (tmp_path / script.PAGE.name).read_text(encoding="utf-8") == script.page()
    assert run("--check").returncode == 0


def test_every_op_of_the_standard_has_a_rule(script: ModuleType) -> None:
    assert script.without_rule() == []


def test_every_rule_has_a_row_that_says_something(script: ModuleType) -> None:
    found = {domain: rows(script.page(), domain) for domain in script.rules_by_domain()}
    keys = {op if domain == script.STANDARD else f"{domain}:{op}" for domain, ops in found.items() for op in ops}
    assert keys == set(RULES)
    assert [op for ops in found.values() for op, (_, text) in ops.items() if len(text) < 10] == []


def test_an_op_that_stays_says_why(script: ModuleType) -> None:
    standard = rows(script.page(), script.STANDARD)
    assert standard["StringSplit"][1] == f"Stays: {STAYS['StringSplit']}"
    assert standard["Conv"][0].startswith("1, 11, 22")


def test_the_subject_is_not_said_twice(script: ModuleType) -> None:
    assert script.without_subject("Squeeze and Unsqueeze: axes go", "Unsqueeze") == "axes go"
    assert script.without_subject("ArgMax, ArgMin: stays", "ArgMin") == "stays"
    assert script.without_subject("Attention (com.microsoft): heads are free", "Attention") == "heads are free"
    assert script.without_subject("Pooling: channels pass", "MaxPool") == "Pooling: channels pass"
