"""Puts this folder on the path: the tests of several packages share `nets` and `support`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Whatever else the machine does makes examples slow, so none is timed; and every run draws the same ones, for a test
# that fails once in a hundred runs tells nothing to those who changed something else. What is marked slow draws anew.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

pytest.register_assert_rewrite("support")


@pytest.fixture(scope="session", autouse=True)
def _same_widths_on_every_machine() -> Iterator[None]:
    """Let every CPU be one with AVX2, for the widths that are chosen follow it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxpfp.pipeline.alignment.cpu_features", lambda: frozenset({"AVX2"}))
        yield
