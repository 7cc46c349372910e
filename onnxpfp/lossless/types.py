"""Types of the lossless step: the removed channels, and the merges by which consumers take them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lossless", "Merge", "Removal", "RemovalKind"]

RemovalKind = Literal["dead", "constant", "negligible", "duplicate"]
"""Zero, one number, less than biases can tell, or a multiple of another channel of its group, wherever it is read.

A channel that is constant but was merged into another constant one counts as constant.
"""

Merge = tuple[int, int, float]
"""Dropped index j and kept index k of the contracted axis, and the factor alpha of x_j = alpha x_k."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Channels of one group that go for free.

    Attributes:
        group: The group's name.
        kind: Why they go.
        channels: Their ids, ascending.
        source: "weights" where weights alone show it, "data" where it was seen.
        samples: Samples on which it was seen; 0 for weights.
    """

    group: str
    kind: RemovalKind
    channels: tuple[int, ...]
    source: Literal["weights", "data"]
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Lossless:
    """The channels that go for free.

    Attributes:
        keep: Whether each channel stays, by channel id, (count + 1,).
        merges: By position of a consumer, how its weights take over what goes: W[:, k] += alpha W[:, j].
        shifts: By position of a consumer, what folded constants add to each of its outputs, (O,) float64: their values
            times their taps, so that a Gemm's alpha comes on top.
        removed: The same for people.
        emptied: By position of a consumer, the indices that it reads with weights of zero from then on, because its
            other weights and its bias have taken them over.
        quieted: Channels that stay and that nothing needs any more, so that their subnormal weights become zero.
        fillers: How many channels cost nothing and stay.
    """

    keep: NDArray[np.bool_]
    merges: Mapping[int, tuple[Merge, ...]]
    shifts: Mapping[int, NDArray[np.float64]]
    removed: tuple[Removal, ...]
    emptied: Mapping[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    quieted: frozenset[int] = frozenset()
    fillers: int = 0
