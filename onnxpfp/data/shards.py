"""Shards of samples: runs of whole batches, so that each is run as one run over all samples would run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeVar

from onnxpfp.data.samples import Samples

__all__ = ["ALL_SAMPLES", "Shard"]

S = TypeVar("S", bound=Samples)


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Some of the samples.

    A shard begins and ends where a batch does: onnxruntime may round what it computes of a sample by what is beside it.

    Attributes:
        number: Which, from 1.
        of: How many shards there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` gives."""
        number, _, of = text.partition("/")
        return cls(int(number), int(of))

    def cut(self, samples: S, batch: int) -> tuple[S | None, int]:
        """Return the samples of this shard, in the order of all, and the number of the first of them.

        Args:
            samples: All of them.
            batch: How many run at once where that is free.

        Returns:
            None in place of the samples where there are fewer batches than shards, and none for this one.
        """
        runs = samples.run_count(batch)
        first, last = (runs * border // self.of for border in (self.number - 1, self.number))
        return samples.of_runs(batch, first, last) if last > first else (None, 0)


ALL_SAMPLES = Shard(1, 1)
"""All samples."""
