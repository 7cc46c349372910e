"""Plans of others: one line, whatever they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nets
import pytest

import onnxpfp
from onnxpfp.errors import PlanError
from onnxpfp.pipeline.plan import Plan


def plan(**entry: Any) -> dict[str, Any]:
    weight = {"shape": [8, 3, 3, 3], "keep": {"0": [0, 1, 2]}} | entry
    return {"format": "onnxpfp-plan", "version": 1, "source_sha256": "", "initializers": {"w1": weight}}


DEEP = "[" * 100_000
HUGE = "1" + "0" * 5000

TEXTS: dict[str, tuple[str | bytes, str]] = {
    "deep": (DEEP, "is no JSON: "),
    "deep objects": ('{"a":' * 100_000, "is no JSON: "),
    "digits": (json.dumps(plan()).replace("[0, 1, 2]", f"[{HUGE}]"), "is no JSON: "),
    "not a number": (json.dumps(plan(keep={"0": [float("nan")]})), "nan is no whole number"),
    "infinite": (json.dumps(plan(shape=[float("inf")])), "inf is no whole number"),
    "large exponent": (json.dumps(plan()).replace("[8, 3", "[1e999, 3"), "the plan is damaged: "),
    "bytes": (b"\xff\xfe\x00{}", "is no JSON: "),
    "halves": (json.dumps(plan(keep={"0": [0.5, 1.5]})), "0.5 is no whole number"),
    "texts": (json.dumps(plan(keep={"0": ["0", "1"]})), "'0' is no whole number"),
    "true": (json.dumps(plan(keep={"0": [True]})), "True is no whole number"),
    "axis": (json.dumps(plan(keep={"a": [0]})), "the plan is damaged: "),
    "list": (json.dumps(plan() | {"initializers": [1]}), "the plan is damaged: "),
    "number": (json.dumps(plan() | {"initializers": {"w1": 3}}), "the plan is damaged: "),
    "null": (json.dumps(plan() | {"initializers": None}), "the plan is damaged: "),
    "groups": (json.dumps(plan() | {"groups": 7}), "the plan is damaged: "),
    "rank of 0": (json.dumps(plan() | {"ranks": {"w1": {"cut": 1, "rank": 0}}}), "rank 0 is below 1"),
    "half a rank": (json.dumps(plan() | {"ranks": {"w1": {"cut": 1, "rank": 2.5}}}), "2.5 is no whole number"),
    "rank alone": (json.dumps(plan() | {"ranks": {"w1": {"rank": 2}}}), "the plan is damaged: "),
    "ranks": (json.dumps(plan() | {"ranks": [1]}), "the plan is damaged: "),
    "array": ("[1, 2]", "is no plan of onnxpfp"),
    "text": ('"onnxpfp-plan"', "is no plan of onnxpfp"),
    "version": (json.dumps(plan() | {"version": DEEP}), "is a plan of version [[["),
    "pickle": (b"\x80\x04\x95", "is no JSON: "),
    "empty": ("", "is no JSON: "),
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_what_is_no_plan(tmp_path: Path, name: str) -> None:
    text, says = TEXTS[name]
    path = tmp_path / "plan.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError) as failure:
        Plan.read(path)
    assert says in str(failure.value)
    assert str(failure.value).startswith(f"{path}: ")
    assert len(str(failure.value)) < 1500


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "beyond": ({"keep": {"0": [0, 8]}}, "impossible indices of axis 0"),
    "negative": ({"keep": {"0": [-1, 0]}}, "impossible indices of axis 0"),
    "2^70": ({"keep": {"0": [0, 2**70]}}, "impossible indices of axis 0"),
    "none": ({"keep": {"0": []}}, "keeps no index of an axis of which something must stay"),
    "axis": ({"keep": {"9": [0]}}, "impossible indices of axis 9"),
    "axis 2^70": ({"keep": {str(2**70): [0]}}, "impossible indices of axis 11805"),
    "negative axis": ({"keep": {"-1": [0]}}, "impossible indices of axis -1"),
    "twice": ({"keep": {"0": [0, 0, 1]}}, "do not go together"),
    "unsorted": ({"keep": {"0": [2, 1, 0]}}, "do not go together"),
    "shape": ({"shape": [2**70, 3, 3, 3]}, "has shape [8, 3, 3, 3]"),
    "factors": ({"scale": {"0": [1.0]}}, "impossible factors"),
    "not a number": ({"scale": {"0": [1.0, float("nan"), 1.0]}}, "impossible factors"),
    "infinite": ({"scale": {"0": [1.0, float("inf"), 1.0]}}, "impossible factors"),
    "zero": ({"scale": {"0": [1.0, 0.0, 1.0]}}, "impossible factors"),
    "below zero": ({"scale": {"0": [1.0, -1.0, 1.0]}}, "impossible factors"),
    "factors of no axis": ({"scale": {"7": [1.0]}}, "impossible factors"),
}


@pytest.mark.parametrize("name", list(ENTRIES))
def test_what_no_network_can_do(tmp_path: Path, name: str) -> None:
    entry, says = ENTRIES[name]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan(**entry)))
    with pytest.raises(PlanError) as failure:
        onnxpfp.prune(nets.chain(), from_plan=path)
    assert says in str(failure.value)


def test_a_name_of_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan() | {"initializers": {"\x1b[2J" + "n" * 1_000_000: {"shape": [], "keep": {}}}}))
    with pytest.raises(PlanError, match=r"the plan names the weight '\?\[2Jnnn.*nnn', which") as failure:
        onnxpfp.prune(nets.chain(), from_plan=path)
    assert len(str(failure.value)) < 1000


def test_files_that_are_no_regular_files_or_too_large(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(PlanError, match="is no regular file"):
            Plan.read(path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(PlanError, match="has 1,073,741,824 bytes, at most 268,435,456 can be read"):
        Plan.read(tmp_path / "huge")
