"""The coverage benchmark counts false promises, and knows how many chance allows."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxpfp.comparison.certificate import agreement_bound, tolerance_limit
from onnxpfp.comparison.outcomes import Outcomes

ROOT = Path(__file__).parents[2]
POOL = 300
TRIALS = 2000


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def pruned(load: Any, agree: float = 0.9) -> Any:
    rng = np.random.default_rng(0)
    errors = rng.exponential(size=(3, POOL))
    return load("benchmarks.promises.files").PrunedFile(0.7, np.arange(POOL) < agree * POOL, errors[0], errors)


@pytest.mark.parametrize("from_pool", [False, True])
@pytest.mark.parametrize("held_out", [60, 150])
def test_chance_is_what_draws_show(load: Any, from_pool: bool, held_out: int) -> None:
    chance = load("benchmarks.promises.chance")
    scheme = load("benchmarks.promises.schemes").Scheme(held_out, from_pool, TRIALS)
    sizes = np.random.default_rng(1).permutation(POOL).astype(np.float64)
    agreeing, share, alpha = 270, 0.9, 0.2
    false = np.zeros(2)
    for places, truth in scheme.draws(POOL, "a file"):
        agree = sizes < agreeing
        false[0] += agreement_bound(int(agree[places].sum()), held_out, alpha) > agree[truth].mean()
        limit = tolerance_limit(sizes[places], share, alpha)
        assert limit is not None
        false[1] += (sizes[truth] <= limit).mean() < share
    place = chance.limit_place(held_out, share, alpha)
    expected = [
        chance.agreement_failures(scheme, POOL, agreeing, alpha),
        chance.limit_failures(scheme, POOL, share, place),
    ]
    np.testing.assert_allclose(false / TRIALS, expected, atol=0.04)


def test_an_exact_promise_of_half_a_pool_fails_more_often_than_alpha(load: Any) -> None:
    chance = load("benchmarks.promises.chance")
    half = load("benchmarks.promises.schemes").Scheme(2500, False, 1)
    assert chance.mean_failures(half, 5000, 0.05) == pytest.approx(0.1224, abs=1e-4)
    assert chance.agreement_failures(half, 5000, 4650, 0.05) == pytest.approx(0.12, abs=0.02)
    assert chance.agreement_failures(replace(half, from_pool=True), 5000, 4650, 0.05) <= 0.05


def test_what_is_held_out_is_no_truth(load: Any) -> None:
    scheme = load("benchmarks.promises.schemes").Scheme(100, False, 3)
    draws = list(scheme.draws(POOL, "a file"))
    for places, truth in draws:
        np.testing.assert_array_equal(np.sort(np.concatenate([places, truth])), np.arange(POOL))
    others = list(scheme.draws(POOL, "another file"))
    assert all((a != b).any() for (a, _), (b, _) in zip(draws, others, strict=True))


def test_false_promises_are_counted(load: Any) -> None:
    promised = load("benchmarks.promises.promised")
    good, bad = pruned(load), pruned(load, agree=0.5)
    bad = replace(bad, errors=4 * bad.errors, layers=np.stack([good.layers[0], good.layers[1], 4 * good.layers[2]]))
    for promise in promised.PROMISES:
        kept, broken = (promise.check(good, truth, 0.05) for truth in (good, bad))
        if promise.name == "drift of 99%":
            # 300 images without a larger error promise that; the limit is the largest.
            assert kept.promised == good.errors.max()
        assert not kept.fails, promise.name
        assert broken.fails, promise.name


def test_too_few_images_promise_no_limit(load: Any) -> None:
    promised = load("benchmarks.promises.promised")
    few = pruned(load).of(np.arange(50))
    names = {promise.name for promise in promised.PROMISES if promise.check(few, few, 0.05) is None}
    assert names == {"drift of 95%", "drift of 99%"}


def test_a_search_that_goes_by_what_is_observed_is_often_false(load: Any) -> None:
    files, searches = load("benchmarks.promises.files"), load("benchmarks.promises.searches")
    rng = np.random.default_rng(2)
    uniform, errors = rng.random(1500), rng.random(1500)
    candidates = [
        files.Candidate(
            percent, percent / 100, Outcomes(uniform > (100 - percent) / 400, errors * (1 - percent / 100), None)
        )
        for percent in range(95, 35, -5)
    ]
    rows = {
        (row.quantity, row.target, row.way): row
        for row in searches.search_rows("net", candidates, searches.TARGETS[:1])
    }
    ours, naive = (rows["agreement", 0.95, way] for way in ("onnxpfp", "while it is observed"))
    assert ours.false <= 0.1 * ours.trials
    assert naive.false > 0.2 * naive.trials
    assert ours.found > 0.5 * ours.trials
    assert 0.8 <= ours.best <= 0.85 < ours.macs < 1


def test_rows_come_back_and_make_a_page(load: Any, tmp_path: Path) -> None:
    rows, splits = load("benchmarks.promises.rows"), load("benchmarks.promises.splits")
    row = rows.PromiseRow(
        model="net",
        percent=70,
        pool=POOL,
        agreement=0.9,
        layers=3,
        from_pool=False,
        held_out=100,
        alpha=0.05,
        promise="agreement",
        share=None,
        trials=200,
        failures=90,
        expected=0.06,
        at_most=False,
        promised=0.85,
        true=0.9,
    )
    search = rows.SearchRow(
        model="net",
        way="onnxpfp",
        pool=POOL,
        quantity="agreement",
        target=0.9,
        alpha=0.05,
        tuning=20,
        held_out=80,
        trials=200,
        found=150,
        false=9,
        macs=0.8,
        true=0.93,
        best=0.6,
        candidates=5,
    )
    file = tmp_path / "rows.jsonl"
    rows.write(file, [row, replace(row, from_pool=True, failures=3), search])
    assert rows.read(file) == [row, replace(row, from_pool=True, failures=3), search]
    text = load("benchmarks.promises.page").page(rows.read(file))
    assert "1 fail more often than is likely and 1 less often" in text
    assert "| net, 70 % of the MACs, 90.0 % agree | splits | 100 | 0.05 | agreement | 90 | 12.0 |" in text
    assert "| net | 5 | agreement at least 0.9 | onnxpfp | 150 of 200 | **9** | 0.800 | 0.600 | 0.930 |" in text
    assert splits.ALPHAS == (0.05, 0.2)
