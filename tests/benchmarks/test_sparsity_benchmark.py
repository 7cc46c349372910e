"""The benchmark of single weights: magnitudes, errors beside bounds, and the page."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


@pytest.mark.parametrize("by_layer", [True, False])
def test_the_largest_magnitudes_stay(load: Any, by_layer: bool) -> None:
    module = load("benchmarks.sparsity.magnitude")
    model = nets.chain()
    before, after = module.weights_of(model), module.weights_of(module.by_magnitude(model, 0.25, by_layer=by_layer))
    if by_layer:
        assert [np.count_nonzero(after[name]) for name in before] == [weight.size // 4 for weight in before.values()]
    sizes = [np.abs(np.concatenate([w.ravel() for w in before.values()]))] * 3
    if by_layer:
        sizes = [np.abs(weight.ravel()) for weight in before.values()]
    for name, size in zip(before, sizes, strict=True):
        stays = after[name] != 0
        np.testing.assert_array_equal(after[name][stays], before[name][stays])
        assert np.abs(before[name][~stays]).max() <= np.quantile(size, 0.76)


def test_errors_are_held_against_what_is_printed(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("benchmarks.sparsity.bounds")
    file = tmp_path / "random.onnx"
    onnx.save(module.random_network(0), file)
    case = module.Case("random", file, nets.noise(24, 16, 8, 8), nets.noise(5, 16, 8, 8, seed=3))
    row = module.bounds_of(case, "hybrid", 0.9, 0.1, 2)
    assert row.triples == 8 * 2 * 5
    assert 0 <= row.broken <= row.below <= row.triples
    whole = module.bounds_of(case, "deterministic", 1.0, 0.1, 2)
    assert (whole.triples, whole.broken, whole.error, whole.bound) == (8 * 5, 0, 0.0, 0.0)
    # A bound of nothing is broken as soon as something went.
    monkeypatch.setattr(module, "ROUNDING", (-1.0, 0.0))
    assert module.bounds_of(case, "deterministic", 0.5, 0.1, 1).broken > 0


def test_the_page_has_every_row(load: Any) -> None:
    rows, page = load("benchmarks.sparsity.rows"), load("benchmarks.sparsity.page")
    common = {"network": "resnet20", "keep": 0.5, "seed": 0, "kept": 0.5, "before": 91.7, "compressed": 0.57}
    counts = {"triples": 6400, "below": 10, "broken": 3}
    text = page.page(
        [
            rows.Accuracy(way="sampled", after=27.44, **common),
            rows.Accuracy(way="magnitude, layer", after=85.5, **common),
            rows.Bounds(layers="random", select="sampled", keep=0.9, delta=0.1, **counts, error=0.5, bound=2.0),
        ]
    )
    assert "| sampled | 27.4 % | 0.57 |" in text
    assert "| magnitude, layer | 85.5 % | 0.57 |" in text
    assert "| random | sampled | 0.9 | 0.1 | 6,400 | 10 | 3 | 0.5 | 2 |" in text
