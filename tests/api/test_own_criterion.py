"""A user's own criterion, as docs/criteria.md shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxpfp
from onnxpfp.errors import OptionError

PAGE = (nets.ROOT / "docs" / "criteria.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(nets.chain(), "in.onnx")
    np.savez("inputs.npz", x=nets.noise(64, 3, 8, 8))
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    assert len(EXAMPLE.strip().splitlines()) <= 15
    report = names["result"].report
    assert report.method == "largest-weight"
    assert report.after.macs <= 0.6 * report.before.macs


class Positive(onnxpfp.Criterion):
    name, title, needs, comparable = "positive", "positive entries", frozenset({"maps"}), True

    def of_maps(self, maps: np.ndarray) -> np.ndarray:
        return (maps > 0).reshape(*maps.shape[:2], -1).mean(2)

    def score(self, group: onnxpfp.GroupData) -> np.ndarray:
        return group.sum_over_consumers(consumer.map_mean / consumer.map_mean.sum() for consumer in group.consumers)


def test_one_that_looks_at_maps_is_the_baseline_of_the_same_formula() -> None:
    options: Any = {"calibration": nets.noise(64, 3, 8, 8), "keep_macs": 0.5, "compensate": "none", "threads": 1}
    mine, theirs = (onnxpfp.prune(nets.chain(), score=score, **options) for score in (Positive(), "apoz"))
    assert mine.plan.initializers == theirs.plan.initializers
    with pytest.raises(OptionError, match="score positive measures the data, and none are given"):
        onnxpfp.prune(nets.chain(), score=Positive())


class Wrong(onnxpfp.Criterion):
    name, title, needs = "wrong", "wrong", frozenset()

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, group: onnxpfp.GroupData) -> np.ndarray:
        return self.scores(group.size)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (lambda n: np.zeros(n + 1), r"score wrong: gives \[\d+\] numbers for the \d+ channels of 'w1'"),
        (lambda n: np.full(n, np.nan), "score wrong: the scores of 'w1' are not all finite and not negative"),
        (lambda n: -np.ones(n), "score wrong: the scores of 'w1' are not all finite and not negative"),
    ],
)
def test_what_is_no_score_is_refused(scores: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxpfp.prune(nets.chain(), score=Wrong(scores))


def test_what_is_no_criterion_is_refused() -> None:
    with pytest.raises(OptionError, match="score takes a name or a Criterion, not a int"):
        onnxpfp.prune(nets.chain(), score=3)  # type: ignore[arg-type]
