"""Fits of a group's consumers at several widths of the group alone: new weights, and how much of their outputs is lost.

The Gram matrices have the loss in closed form at every width. It is the shape of the group's response curve, whose
height the output's drift at few widths tells (`onnxpfp.allocation.by_drift`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxpfp.arrays import Bools, Floats
from onnxpfp.channels import Group
from onnxpfp.refit.gram import ColumnFit, Gram
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.edits import Edits

__all__ = ["LayerFits", "TrialFits", "TrialWidths"]

TRIAL_RIDGE = 1e-2
"""Share of the mean of diag G that is added in every trial's refit.

One for all widths, for a search as for `REFIT_RIDGES` would take several fits at each. It is the value of OSSCAR.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TrialWidths:
    """One group at some widths.

    Attributes:
        group: The group.
        keeps: Whether each of its channels stays, one row per width, (W, C).
    """

    group: Group
    keeps: Bools

    def __len__(self) -> int:
        return len(self.keeps)

    @property
    def edited(self) -> tuple[str, ...]:
        """Ops that get new weights although they read nothing of the group, by output: none."""
        return ()

    def keep(self, row: int, count: int) -> Bools:
        """Return which channels of the network stay at a width, (count + 1,)."""
        keep = np.ones(count + 1, np.bool_)
        keep[self.group.channels] = self.keeps[row]
        return keep

    def fits(self, problem: RefitProblem, rows: Sequence[int], grams: Mapping[str, Gram], *, losses: bool) -> TrialFits:
        """Fit the consumers at some of these widths.

        Args:
            problem: The network.
            rows: The widths, by position.
            grams: As in `TrialFits.of`.
            losses: As there.
        """
        return TrialFits.of(problem, TrialWidths(self.group, self.keeps[list(rows)]), grams, losses=losses)

    def touches(self, count: int) -> Bools:
        """Return which channels of the network are the group's, (count + 1,)."""
        touched = np.zeros(count + 1, np.bool_)
        touched[self.group.channels] = True
        return touched


@dataclass(frozen=True, slots=True, eq=False)
class LayerFits:
    """One consumer at all widths of a group.

    Attributes:
        layer: The op.
        start: Its weights before.
        stays: Which of its columns stay, by width and convolution group, (W, g, n).
        fits: What was fitted where some of the columns stay, by width and convolution group; None where no fit was
            possible.
        means: What convolution groups add to the mean of the outputs, which the bias takes over where nothing of them
            stays, (g, o); zeros where the bias cannot change.
    """

    layer: RefitLayer
    start: InitialWeights
    stays: Bools
    fits: Mapping[tuple[int, int], ColumnFit | None]
    means: Floats

    @classmethod
    def of(cls, layer: RefitLayer, start: InitialWeights, stays: Bools, gram: Gram, *, losses: bool) -> Self:
        """Fit a consumer to its own outputs on all channels."""
        fits: dict[tuple[int, int], ColumnFit | None] = {}
        partly: Bools = np.asarray(stays.any(2) & ~stays.all(2))
        for group in np.flatnonzero(partly.any(0)).tolist():
            here = np.flatnonzero(partly[:, group]).tolist()
            found = gram.refits(
                group, start.weights[group], stays[here, group], TRIAL_RIDGE, biased=layer.biased, losses=losses
            )
            fits.update({(row, group): fit for row, fit in zip(here, found, strict=True)})
        means: Floats = np.einsum("gon,gn->go", start.weights, gram.mean) * float(layer.biased)
        return cls(layer, start, stays, fits, means)

    @property
    def losses(self) -> Floats:
        """Share of the outputs' variance that is lost, the mean over convolution groups, (W,)."""
        lost: Floats = np.where(self.stays.any(2), 0.0, 1.0)
        for place, fit in self.fits.items():
            lost[place] = 1.0 if fit is None else fit.loss
        return lost.mean(1)

    def at(self, row: int) -> tuple[Floats, Floats] | None:
        """Return weights (g, o, n) and bias (g, o) at a width; None where no fit was possible or can be stored."""
        weights, bias = self.start.weights.copy(), self.start.bias.copy()
        gone = ~self.stays[row].any(1)
        weights[gone] = 0.0
        bias[gone] += self.means[gone]
        for group in np.flatnonzero(~gone & ~self.stays[row].all(1)).tolist():
            fit = self.fits[row, group]
            if fit is None:
                return None
            weights[group] = 0.0
            weights[group][:, self.stays[row, group]] = fit.weights
            bias[group] += fit.shift
        weights = self.start.stored(weights)
        return (weights, bias) if np.isfinite(weights).all() and self.start.holds(bias) else None


@dataclass(frozen=True, slots=True, eq=False)
class TrialFits:
    """The consumers of one group, fitted to their own outputs on all channels.

    Attributes:
        state: The weights of the network.
        fitted: The consumers that can be fitted.
    """

    state: RefitState
    fitted: list[LayerFits]

    @classmethod
    def of(cls, problem: RefitProblem, trial: TrialWidths, grams: Mapping[str, Gram], *, losses: bool = True) -> Self:
        """Fit the consumers.

        Args:
            problem: The network.
            trial: The group and its widths.
            grams: Of the ops that read groups, by output; those that have none lose the channels without a fit.
            losses: Whether to find out what the consumers lose.
        """
        graph, rows = problem.analysis.graph, len(trial.keeps)
        state, touched = RefitState(problem, graph.keep_all(), Edits()), trial.touches(graph.count)
        fitted: list[LayerFits] = []
        for layer in problem.layers:
            if layer.output not in grams or not touched[layer.op.channels].any():
                continue
            start = state.start(layer)
            if start is not None:
                keeps = np.array([trial.keep(row, graph.count)[layer.op.channels] for row in range(rows)])
                stays = np.repeat(keeps, layer.op.kernel_size, axis=1).reshape(rows, len(start.weights), -1)
                fitted.append(LayerFits.of(layer, start, stays, grams[layer.output], losses=losses))
        return cls(state, fitted)

    @property
    def losses(self) -> Floats | None:
        """Share of its outputs' variance that each consumer loses, added up, (W,); None where nothing was fitted."""
        return np.sum([each.losses for each in self.fitted], axis=0) if self.fitted else None

    def edits(self, row: int | None = None) -> Edits:
        """Return the new weights at a width; without one those that are there, of the same tensors and inputs."""
        self.state.shifts.clear()
        for each in self.fitted:
            new = None if row is None else each.at(row)
            if new is not None:
                self.state.put(each.layer, *new)
        return self.state.all_edits([each.layer for each in self.fitted], placeholders=True)
