from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import nets
import pytest
from onnx import ModelProto

import onnxpfp
from onnxpfp.channels import Analysis
from onnxpfp.linear.ops import LinearOp
from onnxpfp.pipeline import network_steps
from onnxpfp.pipeline.selector import Decision
from onnxpfp.score.scores import Scores


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

    analysis: Analysis
    ops: tuple[LinearOp, ...]
    scores: Scores
    decision: Decision


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[onnxpfp.Result, Watched]]:
    """Prune, and keep what the stages handed on."""
    seen: list[Watched] = []
    narrowed = network_steps.prune_in_steps

    def call(context: Any, first: Any) -> Any:
        found = narrowed(context, first)
        measured, decision = first, found[0]
        seen.append(Watched(measured.analysis, measured.ops, measured.calibration.scores, decision))
        return found

    monkeypatch.setattr(network_steps, "prune_in_steps", call)

    def prune(model: ModelProto, **options: Any) -> tuple[onnxpfp.Result, Watched]:
        return onnxpfp.prune(model, **options), seen.pop()

    return prune
