"""Labels, ties and components: what must be removed together ends up with the same label.

Every index of every axis of every tensor carries an integer label. Label 0 means that the index never
goes. A tie is an edge between two labels; the connected components of all edges are the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csgraph

from onnxpfp.arrays import Ids

__all__ = ["Components", "Labels"]


def _connected(edges: coo_matrix) -> Ids:
    """Number the connected components of a graph: the component of every node."""
    search = cast("Callable[..., tuple[int, NDArray[np.int32]]]", csgraph.connected_components)  # pyright: ignore[reportUnknownMemberType]
    return search(edges, directed=False)[1].astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Connected components of the labels.

    Attributes:
        of_label: Component of every label, (labels,), int64.
        fixed: Whether a component must stay, (components,), bool.
        reason: Why it must stay: position in `reasons` of the first cause, -1 where it need not.
        reasons: The causes.
    """

    of_label: Ids
    fixed: NDArray[np.bool_]
    reason: Ids
    reasons: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Labels:
    """Hands out labels and collects the ties between them."""

    count: int = 1
    _left: list[Ids] = field(default_factory=list[Ids])
    _right: list[Ids] = field(default_factory=list[Ids])
    _fixed: list[tuple[Ids, str]] = field(default_factory=list[tuple[Ids, str]])

    def fresh(self, size: int) -> Ids:
        """Return `size` labels that nothing else has, (size,), int64."""
        start = self.count
        self.count += size
        return np.arange(start, start + size, dtype=np.int64)

    def tie(self, left: Ids, right: Ids, reason: str) -> None:
        """Make `left[i]` and `right[i]` live or die together; either shape broadcasts to the other.

        A tie with label 0 fixes the other label, and `reason` says why.
        """
        first, second = np.broadcast_arrays(left, right)
        first, second = first.ravel(), second.ravel()
        self.fix(first[second == 0], reason)
        self.fix(second[first == 0], reason)
        real = (first != 0) & (second != 0) & (first != second)
        if real.any():
            self._left.append(first[real])
            self._right.append(second[real])

    def fix(self, labels: Ids, reason: str) -> None:
        """Keep these labels for good."""
        real = labels[labels != 0]
        if real.size:
            self._fixed.append((real, reason))

    def components(self) -> Components:
        """Join what is tied, and find for every fixed component the first reason that was given."""
        left = np.concatenate([*self._left, np.zeros(0, np.int64)])
        right = np.concatenate([*self._right, np.zeros(0, np.int64)])
        edges = coo_matrix((np.ones(left.size, np.bool_), (left, right)), shape=(self.count, self.count))
        of_label = _connected(edges)
        number = int(of_label.max()) + 1
        reason = np.full(number, -1, np.int64)
        for position in range(len(self._fixed) - 1, -1, -1):
            reason[of_label[self._fixed[position][0]]] = position
        fixed = reason >= 0
        fixed[of_label[0]] = True
        return Components(of_label, fixed, reason, tuple(text for _, text in self._fixed))
