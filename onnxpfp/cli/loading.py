"""Loading what a verb works with: some 400 modules, which takes as long as a small network."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator

__all__ = ["loading"]


@contextlib.contextmanager
def loading() -> Generator[None]:
    """Collect no garbage meanwhile: modules make next to none, and Python would look for it every 700 objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
