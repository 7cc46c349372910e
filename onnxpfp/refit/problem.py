"""The input of the refits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxpfp.channels import Analysis
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.recurrent_layers import RecurrentLayer
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.workers import even_batch

__all__ = ["RefitProblem"]

FLOAT64 = 8
SHARE = 8
"""A Gram matrix may take one part in so many of the workspace: there are several, and copies to solve with."""
ROWS_PER_COLUMN = 60
"""Least squares of n unknowns on 60 n rows have 1.7 % more error than on any number of rows."""
FEWEST_POSITIONS = 16
"""Positions that are drawn of a sample in any case, as far as it has them; He et al. (ICCV 2017) draw 10."""


@dataclass(frozen=True, slots=True, eq=False)
class RefitProblem:
    """The network, samples and settings of a sweep.

    Attributes:
        analysis: The original.
        layers: Its linear ops.
        fit: Samples to fit.
        tuning: Samples that decide between fits, as in `Split`.
        batch_size: Samples in one run.
        positions: Most output positions per sample.
        workspace: Bytes of activations and of matrices that may be held.
        requests: Where to run.
        threads: Of onnxruntime.
        seed: Of the positions.
        rows_per_column: Rows that are drawn for every column of a fit, as far as there are positions.
        recurrences: Its recurrences that are refitted.
    """

    analysis: Analysis
    layers: tuple[RefitLayer, ...]
    fit: Samples
    tuning: Samples
    batch_size: int
    positions: int
    workspace: int
    requests: Sequence[ProviderRequest]
    threads: int | None
    seed: int
    rows_per_column: int = ROWS_PER_COLUMN
    recurrences: tuple[RecurrentLayer, ...] = ()

    def positions_for(self, columns: int) -> int:
        """Return how many output positions of a sample a fit of so many columns draws."""
        wanted = -(-self.rows_per_column * columns // max(len(self.fit), 1))
        return min(self.positions, max(FEWEST_POSITIONS, wanted))

    def feeds(self, samples: Samples) -> list[Feed]:
        """Return samples in an even number of batches, also where they would fit into one.

        What waits for all of them, as every measurement on the few tuning samples, takes two threads half as long.
        """
        return [dict(feed) for feed in samples.batches(even_batch(len(samples), self.batch_size))]

    @property
    def dtype(self) -> dict[str, int]:
        """Element types of the dense tensors, by name.

        A sequence that was seen in a run looks like a string, so what is made of strings is left out.
        """
        fed = {info.name for info in self.analysis.model.graph.input}
        types = self.analysis.shapes.dtype.items()
        return {name: kind for name, kind in types if kind != TensorProto.STRING or name in fed}

    def fits(self, columns: int, groups: int = 1) -> bool:
        """Tell whether the Gram matrices of so many columns may be held."""
        return groups * columns * columns * FLOAT64 <= self.workspace // SHARE
