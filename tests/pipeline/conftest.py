from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import nets
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp import api
from onnxpfp.calibrate import Reader
from onnxpfp.decide import Decision
from onnxpfp.prepare import Prepared
from onnxpfp.score.types import Scores


@pytest.fixture(scope="session")
def pruned() -> Callable[..., onnxpfp.Result]:
    """Prune a network of `models/` with 96 of its calibration images; equal calls share the result."""

    @cache
    def prune(name: str, **options: object) -> onnxpfp.Result:
        given: Any = {"calibration": nets.CALIBRATION, "samples": 96, "threads": 1} | options
        return onnxpfp.prune(nets.network(name), **given)

    return prune


@dataclass
class Watched:
    """What passed between the stages of the last pruning."""

    prepared: Prepared
    readers: tuple[Reader, ...]
    scores: Scores
    decision: Decision


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[onnxpfp.Result, Watched]]:
    """Prune, and keep what the stages handed on."""
    seen: dict[str, Any] = {}

    def spy(name: str, key: str) -> None:
        original = getattr(api, name)

        def call(*args: Any, **options: Any) -> Any:
            seen[key] = original(*args, **options)
            return seen[key]

        monkeypatch.setattr(api, name, call)

    for name, key in (
        ("prepare", "prepared"),
        ("describe", "readers"),
        ("score_with_data", "scores"),
        ("score_without_data", "scores"),
        ("_decide", "decision"),
    ):
        spy(name, key)

    def prune(model: ModelProto, **options: Any) -> tuple[onnxpfp.Result, Watched]:
        return onnxpfp.prune(model, **options), Watched(**seen)

    return prune
