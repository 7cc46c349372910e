"""Watchers: who else wants to see what a linear op reads, in the runs that measure the readers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxpfp.linear.ops import LinearOp

__all__ = ["Observer"]


class Observer(Protocol):
    """Sees what one reader reads, batch by batch; one thread at a time works on it."""

    @property
    def reader(self) -> LinearOp:
        """Whose input it watches."""
        ...

    @property
    def work(self) -> int:
        """Multiplications of one sample, roughly."""
        ...

    def see(self, data: NDArray[np.float32], batch: int) -> None:
        """Look at one batch.

        Args:
            data: The tensor that is read; its memory has other numbers after the call.
            batch: Number of the batch, from 0.
        """
        ...

    def forget(self) -> None:
        """Forget all batches: the samples begin anew, in smaller batches."""
        ...
