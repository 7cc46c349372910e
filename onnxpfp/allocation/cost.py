"""The exact cost of a network as a function of how many channels each group keeps.

Every multiply-accumulate count and every tensor size is a product of axis lengths, and every axis
length is an affine function of the kept channels:

    length_a(kept) = fixed_a + sum_g per_channel[a, g] * kept_g
    cost(kept)     = sum_t coefficient_t * prod_f length_{terms[t, f]}(kept)

So the cost of any choice of widths is known without touching the graph, exactly, and it never
falls when a group keeps more. Kernels that compute channels in blocks count an axis as whole
blocks: its length is rounded up to a multiple. A group that keeps nothing may take more with it than the products
that have its channels: these terms are zero then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from onnxpfp.arrays import Ints

__all__ = ["CostModel"]


class _Terms(NamedTuple):
    """Some terms of a cost model, with the axes that they name.

    Attributes:
        numbers: Their numbers among all terms, (T,).
        fixed: Indices of each of these axes that always stay, (A,).
        per_channel: Those that one channel of group g owns, (A, G).
        blocks: Multiple to which each length is rounded up, (A,); None is 1 everywhere.
        factors: Places among the axes, (F, T).
        coefficients: Factor of each product, (T,).
    """

    numbers: Ints
    fixed: Ints
    per_channel: Ints
    blocks: Ints | None
    factors: Ints
    coefficients: Ints

    def cost(self, lengths: Ints) -> Ints:
        """Return the sum of the products, (W,), at several lengths of the axes, (A, W)."""
        whole = lengths if self.blocks is None else -(-lengths // self.blocks[:, None]) * self.blocks[:, None]
        return self.coefficients @ np.multiply.reduce(whole[self.factors], axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class CostModel:
    """Exact physical cost as a sum of products of axis lengths.

    Attributes:
        fixed: Indices of each axis that always stay, (A,) int64. Axis 0 is a pseudo axis of
            length 1 that pads short products.
        per_channel: Indices of the axis that one channel of group g owns, (A, G) int64.
        terms: Axis numbers of each product, (T, F) int64.
        coefficients: Factor of each product, (T,) int64.
        blocks: Multiple to which the length of each axis is rounded up, (A,) int64, at least 1; None is 1 everywhere.
        going: By group the numbers of the terms that are zero where it keeps nothing, (n,).
        counts: What it counts, as people call it.

    Raises:
        ValueError: If the shapes do not fit, an axis number is out of range, axis 0 is not of
            length 1, or a number is negative.
    """

    fixed: Ints
    per_channel: Ints
    terms: Ints
    coefficients: Ints
    blocks: Ints | None = None
    going: Mapping[int, Ints] = field(default_factory=dict[int, Ints])
    counts: str = "full cost"
    # The nonzeros of per_channel and the transposed terms: `total` is called thousands of times.
    _axes: Ints = field(init=False, repr=False)
    _groups: Ints = field(init=False, repr=False)
    _owned: Ints = field(init=False, repr=False)
    _factors: Ints = field(init=False, repr=False)
    _terms: dict[int, _Terms] = field(init=False, repr=False, default_factory=dict[int, "_Terms"])

    def __post_init__(self) -> None:
        axes, groups = np.nonzero(self.per_channel)
        object.__setattr__(self, "_axes", axes)
        object.__setattr__(self, "_groups", groups)
        object.__setattr__(self, "_owned", self.per_channel[axes, groups])
        object.__setattr__(self, "_factors", np.ascontiguousarray(self.terms.T, dtype=np.int64))
        self._check()

    def _check(self) -> None:
        n_axes = self.fixed.shape[0]
        if self.per_channel.shape[0] != n_axes or len(self.per_channel.shape) != 2:
            raise ValueError(f"{n_axes} axes, but per_channel is {self.per_channel.shape}")
        if self.terms.ndim != 2 or self.coefficients.shape != self.terms.shape[:1]:
            raise ValueError(f"terms {self.terms.shape} and coefficients {self.coefficients.shape} do not fit")
        if self.terms.size and not 0 <= self.terms.min() <= self.terms.max() < n_axes:
            raise ValueError(f"terms name axes outside 0..{n_axes - 1}")
        if self.blocks is not None and (self.blocks.shape != self.fixed.shape or np.any(self.blocks < 1)):
            raise ValueError(f"blocks must be {n_axes} numbers of at least 1")
        if n_axes == 0 or self.fixed[0] != 1 or np.any(self._axes == 0):
            raise ValueError("axis 0 must have the constant length 1")
        # allocate() bisects, so more channels must never cost less.
        if any(bool(np.any(x < 0)) for x in (self.fixed, self._owned, self.coefficients)):
            raise ValueError("lengths and coefficients must not be negative")

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return self.per_channel.shape[1]

    def lengths(self, kept: Ints) -> Ints:
        """Return the length of every axis, (A,) int64, if group g keeps kept[g] channels."""
        # Exact: bincount adds float64, and no axis is as long as 2**53.
        grown = np.bincount(self._axes, weights=self._owned * kept[self._groups], minlength=self.fixed.shape[0])
        lengths = self.fixed + grown.astype(np.int64)
        return lengths if self.blocks is None else -(-lengths // self.blocks) * self.blocks

    def saved_at(self, kept: Ints, group: int, widths: Ints) -> Ints:
        """Return how much less it costs if one group has other widths, (W,) int64.

        Args:
            kept: What every group keeps now, (G,).
            group: The group.
            widths: Its other widths, (W,).
        """
        terms = self._terms_of(group)
        gone = self._gone(kept)
        if gone.size:
            stays = np.isin(terms.numbers, gone, invert=True)
            terms = terms._replace(coefficients=terms.coefficients * stays)
        raw = terms.fixed + terms.per_channel @ kept
        others = raw[:, None] + terms.per_channel[:, group, None] * (widths - kept[group])
        saved = terms.cost(raw[:, None]) - terms.cost(others)
        if group in self.going and (widths == 0).any():
            without = kept.copy()
            without[group] = 0
            saved[widths == 0] = self.total(kept) - self.total(without)
        return saved

    def _gone(self, kept: Ints) -> Ints:
        """Return the numbers of the terms that are zero, for some groups keep nothing."""
        numbers = [terms for group, terms in self.going.items() if kept[group] == 0]
        return np.concatenate(numbers) if numbers else np.zeros(0, np.int64)

    def _terms_of(self, group: int) -> _Terms:
        """Return the terms that depend on a group; they are looked for once."""
        if group not in self._terms:
            numbers = self._reading(group)
            axes, places = np.unique(self._factors[:, numbers], return_inverse=True)
            self._terms[group] = _Terms(
                numbers,
                self.fixed[axes],
                self.per_channel[axes],
                None if self.blocks is None else self.blocks[axes],
                places.reshape(self._factors.shape[0], numbers.size),
                self.coefficients[numbers],
            )
        return self._terms[group]

    def terms_at(self, kept: Ints) -> Ints:
        """Return every product times its coefficient, (T,) int64, if group g keeps kept[g] channels."""
        costs = np.multiply.reduce(self.lengths(kept)[self._factors], axis=0) * self.coefficients
        costs[self._gone(kept)] = 0
        return costs

    def terms_over(self, kept: Ints, group: int, widths: Ints) -> Ints:
        """Return every product times its coefficient at several widths of one group, (T, W) int64.

        Args:
            kept: What every group keeps, (G,).
            group: The group.
            widths: Its widths, (W,).
        """
        raw = self.fixed + self.per_channel @ kept
        lengths = raw[:, None] + self.per_channel[:, group, None] * (widths - kept[group])
        if self.blocks is not None:
            lengths = -(-lengths // self.blocks[:, None]) * self.blocks[:, None]
        costs = np.multiply.reduce(lengths[self._factors], axis=0) * self.coefficients[:, None]
        for leader, terms in self.going.items():
            gone = widths == 0 if leader == group else np.full(widths.size, kept[leader] == 0)
            costs[np.ix_(terms, gone)] = 0
        return costs

    def of_group(self, group: int) -> Ints:
        """Return the numbers of the terms that change with the width of a group, ascending."""
        return np.union1d(self._reading(group), self.going.get(group, np.zeros(0, np.int64)))

    def _reading(self, group: int) -> Ints:
        """Return the numbers of the terms with a length that a group changes, ascending."""
        return np.flatnonzero((self.per_channel[:, group] > 0)[self._factors].any(axis=0))

    def only(self, numbers: Ints) -> CostModel:
        """Return the cost of some of the terms, in this order."""
        place = np.full(self.coefficients.size, -1, np.int64)
        place[numbers] = np.arange(numbers.size)
        going = {leader: place[terms][place[terms] >= 0] for leader, terms in self.going.items()}
        return replace(self, terms=self.terms[numbers], coefficients=self.coefficients[numbers], going=going)

    def holding(self, widths: Mapping[int, int]) -> CostModel:
        """Return the cost of the other groups' widths, where some groups have theirs.

        Args:
            widths: The widths of those, by group, at least 1.
        """
        held = np.array([*widths], np.int64)
        others = np.setdiff1d(np.arange(self.n_groups), held)
        place = {int(group): number for number, group in enumerate(others)}
        return replace(
            self,
            fixed=self.fixed + self.per_channel[:, held] @ np.array([*widths.values()], np.int64),
            per_channel=self.per_channel[:, others],
            going={place[group]: terms for group, terms in self.going.items() if group in place},
        )

    def total(self, kept: Ints) -> int:
        """Return the cost, if group g keeps kept[g] channels; exact below 2**63."""
        return int(self.terms_at(kept).sum())
