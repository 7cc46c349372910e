"""Plans that are broken, edited or of another network are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import pytest

import onnxpfp
from onnxpfp.errors import PlanError

Document = dict[str, Any]
Edit = Callable[[Document], Any]


@pytest.fixture(scope="module")
def text() -> str:
    options: Any = {"calibration": nets.noise(12, 3, 8, 8), "keep_macs": 0.5, "compensate": "none", "round_to": 1}
    return onnxpfp.prune(nets.chain(), select="sampled", **options).plan.to_json()


def refuse(text: str, folder: Path, edit: Edit) -> str:
    document = json.loads(text)
    edit(document)
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError) as caught:
        onnxpfp.prune(nets.chain(), from_plan=path)
    return str(caught.value)


def swap_first(document: Document) -> None:
    """Keep another channel in one of two tied weights."""
    kept = document["initializers"]["w1"]["keep"]["0"]
    kept[0] = next(i for i in range(8) if i not in kept)
    kept.sort()


def weight(name: str, **change: Any) -> Edit:
    return lambda document: document["initializers"].setdefault(name, {"shape": [], "keep": {}}).update(change)


IMPOSSIBLE = "the plan keeps impossible indices of axis {} of 'w1'"
TOGETHER = "the plan's indices of axis 0 of 'w1' do not go together with its others"
EDITED: dict[str, tuple[Edit, str]] = {
    "another weight": (weight("w9"), "the plan names the weight 'w9', which the model does not have"),
    "another shape": (weight("w1", shape=[8, 3, 5, 5]), "'w1' has shape [8, 3, 3, 3], the plan says [8, 3, 5, 5]"),
    "fixed indices": (
        weight("w3", keep={"0": [0, 1], "1": [0]}),
        "the plan drops indices of axis 0 of 'w3' that cannot go in this model",
    ),
    "graph inputs": (
        weight("w1", keep={"1": [0, 2]}),
        "the plan drops indices of axis 1 of 'w1' that cannot go in this model",
    ),
    "tied weights disagree": (swap_first, "do not go together with its others"),
    "one more in a tied weight": (weight("b1", keep={"0": list(range(8))}), "do not go together"),
    "not sorted": (lambda d: d["initializers"]["w1"]["keep"]["0"].reverse(), TOGETHER),
    "twice": (lambda d: d["initializers"]["w1"]["keep"]["0"].append(7), TOGETHER),
    "nothing stays": (weight("w1", keep={"0": []}), "do not go together with its others"),
    "negative": (weight("w1", keep={"0": [-1, 0]}), IMPOSSIBLE.format(0)),
    "too large": (weight("w1", keep={"0": [0, 8]}), IMPOSSIBLE.format(0)),
    "no such axis": (weight("w1", keep={"4": [0]}), IMPOSSIBLE.format(4)),
    "factors of another number": (
        lambda d: d["initializers"]["w2"]["scale"]["1"].pop(),
        "the plan has impossible factors for axis 1 of 'w2'",
    ),
    "negative factors": (
        lambda d: d["initializers"]["w2"]["scale"]["1"].__setitem__(0, -1.0),
        "the plan has impossible factors for axis 1 of 'w2'",
    ),
    "version": (lambda d: d.update(version=5), "is a plan of version 5, not 1, 2, 3 or 4"),
    "computed weights as a list": (lambda d: d.update(computed=[1]), "the plan is damaged"),
    "format": (lambda d: d.update(format="other"), "is no plan of onnxpfp"),
    "no initializers": (lambda d: d.pop("initializers"), "the plan is damaged"),
    "initializers as a list": (lambda d: d.update(initializers=[1]), "the plan is damaged"),
    "an axis that is no number": (weight("w1", keep={"x": [0]}), "the plan is damaged"),
    "an index that is no number": (weight("w1", keep={"0": ["a"]}), "the plan is damaged"),
    "groups that are no list": (lambda d: d.update(groups=None), "the plan is damaged"),
}


@pytest.mark.parametrize("case", EDITED)
def test_edited_plans_are_refused(case: str, text: str, tmp_path: Path) -> None:
    edit, message = EDITED[case]
    assert message in refuse(text, tmp_path, edit)


def test_an_unedited_plan_is_not_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    assert onnxpfp.prune(nets.chain(), from_plan=tmp_path / "plan.json").report.method == "plan"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'"onnxpfp-plan"'])
def test_files_that_are_no_plan(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json: is no (JSON|plan of onnxpfp)"):
        onnxpfp.prune(nets.chain(), from_plan=tmp_path / "plan.json")


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read: No such file"):
        onnxpfp.prune(nets.chain(), from_plan=tmp_path / "plan.json")
    with pytest.raises(PlanError, match="cannot be read: Is a directory"):
        onnxpfp.prune(nets.chain(), from_plan=tmp_path)


def test_the_plan_of_another_network(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        onnxpfp.prune(nets.network("resnet"), from_plan=tmp_path / "plan.json")
    assert "which the model does not have" in str(caught.value)
    assert caught.value.hint == "replay a plan on the network it was made for, with the same weight names"


def test_a_wider_network_of_the_same_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    wider = nets.build(nets.CHAIN, nets.CHAIN_SHAPES | {"w1": (9, 3, 3, 3), "b1": (9,), "w2": (10, 9, 3, 3)})
    with pytest.raises(PlanError, match=r"has shape \[9, 3, 3, 3\], the plan says \[8, 3, 3, 3\]"):
        onnxpfp.prune(wider, from_plan=tmp_path / "plan.json")


def test_factors_that_have_no_weight_to_go_into() -> None:
    text = "g (float[N,5] x) => (float[N,3] y) {{ h = MatMul(x, w1) r = Relu(h) {} }}"
    shapes, data = {"w1": (5, 8), "w2": (8, 3)}, nets.noise(8, 5)
    one = nets.build(text.format("y = MatMul(r, w2)"), shapes)
    two = nets.build(text.format("t = Neg(w2) u = Neg(t) y = MatMul(r, u)"), shapes)
    plan = onnxpfp.prune(one, calibration=data, keep_macs=0.6, select="sampled").plan
    with pytest.raises(PlanError, match="scales weights of MatMul 'node_y', which cannot be scaled in this model"):
        onnxpfp.prune(two, from_plan=plan)
    unscaled = onnxpfp.prune(one, calibration=data, keep_macs=0.6, select="deterministic").plan
    assert onnxpfp.prune(two, from_plan=unscaled).plan.initializers == unscaled.initializers
