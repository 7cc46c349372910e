from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper
from support.oracle import problem as analysed

from onnxpfp.data.inputs import input_specs
from onnxpfp.data.sources import load_samples
from onnxpfp.model.shapes import concrete_shapes, default_input_shapes
from onnxpfp.refit.layers import RefitLayer, refit_layers
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.recurrent_layers import recurrent_layers
from onnxpfp.runtime import resolve_providers


@pytest.fixture(scope="session")
def oracles() -> dict[str, Any]:
    path = Path(__file__).parents[2].parent / "shared" / "oracles" / "oracles.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text())


def _normal(model: ModelProto, count: int) -> dict[str, np.ndarray] | str:
    """Normal numbers, where the first axis of every input is free."""
    rng = np.random.default_rng(5)
    found: dict[str, np.ndarray] = {}
    for info in model.graph.input:
        sizes = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if sizes[0]:
            return "random"
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        found[info.name] = rng.standard_normal((count, *sizes[1:])).astype(dtype)
    return found


Studied = Callable[..., tuple[RefitProblem, dict[str, RefitLayer], dict[str, str]]]


@pytest.fixture
def make_problem() -> Studied:
    """Find the linear ops of a model and give it samples: noise, or feeds of the caller's."""

    def look(
        model: ModelProto, samples: Any = None, *, count: int = 64, tuning_count: int = 16, **given: Any
    ) -> tuple[RefitProblem, dict[str, RefitLayer], dict[str, str]]:
        analysis = analysed(model, shapes=concrete_shapes(model, default_input_shapes(model, {}))).analysis
        layers, left = refit_layers(analysis)
        recurrences, others = recurrent_layers(analysis)
        source = _normal(model, count) if samples is None else samples
        loaded = load_samples(
            source, input_specs(model), count=count, input_shapes=default_input_shapes(model, {}), rng=0
        )
        fit, tuning = loaded.split(tuning_count, np.random.default_rng(0))
        options = {
            "batch_size": 8,
            "positions": 64,
            "workspace": 1 << 28,
            "threads": 1,
            "seed": 0,
            # All positions that there are.
            "rows_per_column": 1 << 20,
            "recurrences": recurrences,
        } | given
        requests = resolve_providers("cpu")
        problem = RefitProblem(analysis, layers, fit, tuning, requests=requests, **options)
        return problem, {layer.output: layer for layer in layers}, dict((*left, *others))

    return look
