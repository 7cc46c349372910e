"""A short, repeatable run of what `python -m fuzz` does for as long as one likes."""

from __future__ import annotations

import random

import pytest

from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", list(TARGETS))
def test_only_errors_of_onnxpfp_come_out(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert all(map(target.try_on, seeds)), "a valid file is refused"
    rng = random.Random(4)
    accepted = 0
    for _ in range(300):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = target.mutate(data, rng)
        accepted += target.try_on(data)
    assert 0 < accepted < 300
