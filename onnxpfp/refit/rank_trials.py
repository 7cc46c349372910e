"""Trials of ranks: one layer alone has weights of a lower rank, the nearest by what it reads in the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxpfp.arrays import Bools, Floats
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.low_rank.moments import InputMoments
from onnxpfp.low_rank.ranks import Choice, RankCurve
from onnxpfp.refit.gram import Gram
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.edits import Edits

__all__ = ["RankTrial"]


@dataclass(frozen=True, slots=True, eq=False)
class RankTrial:
    """One layer at some ranks.

    Attributes:
        layer: The layer.
        kernel: Spatial shape of its kernel; empty for a matrix product.
        curve: What every rank of its scheme loses.
        ranks: The ranks at which it may be tried, ascending.
        moments: Of what it reads in the original.
    """

    layer: RefitLayer
    kernel: tuple[int, ...]
    curve: RankCurve
    ranks: tuple[int, ...]
    moments: InputMoments

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def edited(self) -> tuple[str, ...]:
        """The op that gets new weights, by output."""
        return (self.layer.output,)

    def limit(self, rank: int) -> RankLimit:
        """Return the limit of its weights."""
        return RankLimit(self.kernel, Choice(self.curve.cut, rank))

    def touches(self, count: int) -> Bools:
        """Return which channels of the network go: none, (count + 1,)."""
        return np.zeros(count + 1, np.bool_)

    def keep(self, row: int, count: int) -> Bools:
        """Return which channels of the network stay: all, (count + 1,)."""
        return np.ones(count + 1, np.bool_)

    def fits(
        self, problem: RefitProblem, rows: Sequence[int], grams: Mapping[str, Gram], *, losses: bool
    ) -> _RankedWeights:
        """Return its weights at some ranks; arguments as those of `TrialWidths.fits`."""
        ranks = [self.ranks[row] for row in rows]
        state = RefitState(problem, problem.analysis.graph.keep_all(), Edits())
        return _RankedWeights(self, ranks, state, grams.get(self.layer.output), losses)


@dataclass(frozen=True, slots=True, eq=False)
class _RankedWeights:
    """The weights of a layer at some ranks.

    Attributes:
        trial: The layer.
        ranks: The ranks.
        state: The weights of the network.
        gram: What the layer reads.
        shown: Whether to tell what the ranks lose.
    """

    trial: RankTrial
    ranks: Sequence[int]
    state: RefitState
    gram: Gram | None
    shown: bool

    @property
    def losses(self) -> Floats | None:
        """Share of the outputs' variance that each rank loses, (W,); None where nobody asked."""
        return self.trial.curve.errors[list(self.ranks)] if self.shown else None

    def edits(self, row: int | None = None) -> Edits:
        """Return the new weights at a rank; without one those that are there, of the same tensors and inputs."""
        layer = self.trial.layer
        self.state.shifts.clear()
        start = self.state.start(layer)
        if row is not None and start is not None:
            weights = start.stored(self.trial.limit(self.ranks[row]).limited(start.weights, self.trial.moments))
            lost = np.zeros_like(start.bias)
            if start.biased and self.gram is not None:
                lost = np.einsum("gon,gn->go", start.weights - weights, self.gram.mean)
            if np.isfinite(weights).all() and start.holds(start.bias + lost):
                self.state.put(layer, weights, start.bias + lost)
        return self.state.all_edits([layer], placeholders=True)
