"""Puts this folder on the path: the tests of several packages share `nets` and `support`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("support")


@pytest.fixture(scope="session", autouse=True)
def _same_widths_on_every_machine() -> Iterator[None]:
    """Let every CPU be one with AVX2, for the widths that are chosen follow it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxpfp.pipeline.alignment.cpu_features", lambda: frozenset({"AVX2"}))
        yield
