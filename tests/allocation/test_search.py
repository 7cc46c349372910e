"""The search for the smallest good share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from onnxpfp.allocation import search as shares


def search(
    curve: Callable[[float], float], *, limit: float, least: float = 0.0
) -> tuple[shares.SearchResult, list[float]]:
    """Search on a curve, and make sure that no share is measured twice or out of reach."""
    asked: list[float] = []

    def attempt(share: float) -> shares.Trial:
        asked.append(share)
        return shares.Trial(share, curve(share), curve(share) <= limit)

    found = shares.search(attempt, least)
    assert [trial.share for trial in found.trials] == asked
    assert len(set(asked)) == len(asked)
    assert all(least - 1e-9 <= share < 1 for share in asked)
    assert [trial.good for trial in found.trials] == [curve(share) <= limit for share in asked]
    return found, asked


@pytest.mark.parametrize("true", [0.02, 0.07, 0.2, 0.33, 0.4, 0.405, 0.512, 0.6, 0.77, 0.8, 0.86, 0.95, 0.985])
def test_a_monotone_curve_to_five_percent_in_few_trials(true: float) -> None:
    found, asked = search(lambda share: 1 - share, limit=1 - true)
    assert found.share is not None
    assert true - 1e-9 <= found.share < true + 0.05
    assert len(asked) <= 8


def test_everything_is_within() -> None:
    found, asked = search(lambda share: 0.0, limit=0.1, least=0.163)
    assert found.share == 0.17
    assert asked == [0.8, 0.6, 0.4, 0.2, 0.17]


def test_nothing_is_within() -> None:
    found, asked = search(lambda share: 1.0, limit=0.1)
    assert found.share is None
    assert max(asked) == 0.99
    assert asked[:2] == [0.8, 0.6]
    assert 0.4 not in asked


def test_what_is_no_number_is_not_good() -> None:
    assert search(lambda share: math.nan, limit=0.1)[0].share is None


def test_nothing_can_go() -> None:
    assert search(lambda share: 0.0, limit=0.1, least=1.0) == (shares.SearchResult(None, ()), [])
    assert search(lambda share: 0.0, limit=0.1, least=0.995)[0].share is None


def test_one_share_that_fails_on_the_way_is_passed_over() -> None:
    bump = {0.6: 1.0}
    found, asked = search(lambda share: bump.get(share, 0.0 if share > 0.345 else 1.0), limit=0.5)
    assert asked[:3] == [0.8, 0.6, 0.4]
    assert found.share == 0.35


def test_while_nothing_is_good_all_is_looked_at_to_one_percent() -> None:
    found, asked = search(lambda share: 1 - share, limit=0.013)
    assert found.share == 0.99
    assert len(asked) <= 7


def test_two_in_a_row_end_it() -> None:
    hole = {0.8: 0.0, 0.6: 1.0, 0.4: 1.0, 0.2: 0.0}
    found, asked = search(lambda share: hole.get(share, 1.0), limit=0.5)
    assert 0.2 not in asked
    assert found.share == 0.8


def test_the_smallest_good_trial_is_returned() -> None:
    wavy = [round(math.sin(12 * share) * 0.3 + 1 - share, 6) for share in (number / 100 for number in range(101))]
    found, _ = search(lambda share: wavy[round(100 * share)], limit=0.45)
    assert found.share == min(trial.share for trial in found.trials if trial.good)
