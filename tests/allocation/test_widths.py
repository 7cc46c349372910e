from __future__ import annotations

import numpy as np
import pytest

from onnxpfp.allocation.widths import grid, nearest_width, unreachable, widths_of

CASES = [(size, step, minimum) for size in (1, 2, 7, 8, 16, 63, 64) for step in (1, 4, 8) for minimum in (1, 3, 8)]


@pytest.mark.parametrize(("size", "step", "minimum"), CASES)
def test_widths_are_multiples_of_the_step_from_the_minimum_on_and_the_full_one(
    size: int, step: int, minimum: int
) -> None:
    found = widths_of(size, step, min(minimum, size)).tolist()
    wanted = [w for w in range(1, size) if w % step == 0 and w >= min(minimum, size)] + [size]
    assert found == wanted


@pytest.mark.parametrize(("size", "step", "minimum"), CASES)
def test_a_curve_is_measured_at_few_widths_that_are_allowed(size: int, step: int, minimum: int) -> None:
    allowed = widths_of(size, step, min(minimum, size))
    found = grid(size, step, min(minimum, size))
    assert set(found) <= set(allowed[:-1])
    assert found.size <= 8
    assert (np.diff(found) > 0).all()
    if allowed.size > 1:
        assert found[0] == allowed[0]


def test_a_wide_group_is_measured_at_the_eighths_and_the_end() -> None:
    assert grid(64, 1, 1).tolist() == [1, 8, 16, 24, 32, 40, 48, 56]


def test_a_group_of_one_channel_has_nothing_to_measure() -> None:
    assert grid(1, 1, 1).size == 0


def test_the_error_names_the_least_share_that_can_be_reached() -> None:
    error = unreachable("MACs", 0.2, 301, 1000, 300)
    assert "20.0%" in str(error)
    assert "30.1%" in str(error)
    assert "0.301" in (error.hint or "")


def test_the_hint_names_other_options_only_where_they_help() -> None:
    assert unreachable("MACs", 0.2, 301, 1000, 300).hint.startswith("lower --round-to or --min-channels, or ask")
    assert unreachable("MACs", 0.2, 301, 1000, 301).hint == "ask for a target of at least 0.301"


def test_a_group_that_may_go_has_no_channel_as_its_first_width() -> None:
    assert widths_of(16, 8, 0).tolist() == [0, 8, 16]
    assert widths_of(3, 8, 0).tolist() == [0, 3]
    assert grid(16, 4, 0).tolist() == [0, 4, 8, 12]
    assert grid(1, 1, 0).tolist() == [0]


@pytest.mark.parametrize(("asked", "width"), [(0.3, 4), (5.9, 4), (6.0, 8), (6.1, 8), (8, 8), (11, 10), (99, 10)])
def test_the_nearest_width_is_the_wider_one_of_two(asked: float, width: int) -> None:
    assert nearest_width(np.array([4, 8, 10]), asked) == width
