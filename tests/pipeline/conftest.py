from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import nets
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp import api
from onnxpfp.calibrate import Reader
from onnxpfp.pipeline import gather
from onnxpfp.pipeline.decide import Decision
from onnxpfp.pipeline.prepare import Prepared
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

    def spy(module: ModuleType, name: str, key: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            seen[key] = original(*args, **options)
            return seen[key]

        monkeypatch.setattr(module, name, call)

    for module, name, key in (
        (api, "prepare", "prepared"),
        (api, "describe", "readers"),
        (gather, "score_with_data", "scores"),
        (gather, "score_without_data", "scores"),
        (api, "choose", "decision"),
    ):
        spy(module, name, key)

    def prune(model: ModelProto, **options: Any) -> tuple[onnxpfp.Result, Watched]:
        return onnxpfp.prune(model, **options), Watched(**seen)

    return prune
