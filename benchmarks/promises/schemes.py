"""How held-out images and the truth are drawn from a pool of images."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Places", "Scheme"]

SEED = 13
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way of drawing.

    Attributes:
        held_out: Images that promises are made from.
        from_pool: Whether they are drawn with replacement and the whole pool is the truth; else the truth is what they
            leave of the pool.
        trials: How often.
    """

    held_out: int
    from_pool: bool
    trials: int

    def draws(self, pool: int, of: str) -> Iterator[tuple[Places, Places]]:
        """Yield the places of the held-out images, in the order of the draw, and those of the truth.

        Args:
            pool: How many images there are.
            of: What the draws are for: each file has draws of its own, so that a strange one does not count in all.
        """
        rng = np.random.default_rng([SEED, zlib.crc32(of.encode()), self.held_out, self.from_pool])
        for _ in range(self.trials):
            if self.from_pool:
                yield rng.integers(pool, size=self.held_out), np.arange(pool)
            else:
                order = rng.permutation(pool)
                yield order[: self.held_out], order[self.held_out :]
