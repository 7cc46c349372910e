from __future__ import annotations

from collections.abc import Callable
from functools import cache

import nets
import pytest

import onnxpfp


@pytest.fixture(scope="session")
def pruned() -> Callable[..., onnxpfp.Result]:
    """Prune a network of `models/` with its calibration file; equal calls share the result."""

    @cache
    def prune(name: str, **options: object) -> onnxpfp.Result:
        return onnxpfp.prune(nets.network(name), calibration=nets.CALIBRATION, **options)  # type: ignore[arg-type]

    return prune
