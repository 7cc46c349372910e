"""The table of baselines: scores of other papers under one interface, for honest comparison.

Every baseline gives one number per channel, not negative, higher stays. What it is computed from decides its type, and
that decides how it is taken over to a coupled group (channels with several producers and consumers):

  of filters, of weights   the channel is one long row of all its producers' filters, and of its consumers' columns
  of norms                 the mean over the BatchNormalizations that scale the channel
  of squares, of maps      its share of each consumer's sum, added up over the consumers
  of columns               the consumers' matrices Q, each divided by its trace, added up

A channel that lies at several indices of an axis has the sum over them. Scores of different groups compare where
`comparable` says so; of all others the pipeline takes the share of the group's sum, so that no group loses more than
others because its weights are of another size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.score.magnitude import fpgm, l1_norms, l2_norms, lamp
from onnxpfp.score.maps import map_ranks, nuclear_losses, positive_shares
from onnxpfp.score.thinet import removal_ranks
from onnxpfp.score.wanda import wanda_shares

__all__ = [
    "BASELINES",
    "Baseline",
    "Needs",
    "OfChance",
    "OfColumns",
    "OfMaps",
    "OfNorms",
    "OfSquares",
    "OfWeights",
    "chance",
    "mean_scale",
]

Floats = NDArray[np.float64]

Needs = Literal["nothing", "weights", "squares", "maps", "columns"]
"""What a baseline looks at; all but the first two come from data."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline.

    Attributes:
        name: What users call it.
        comparable: Whether scores of different groups compare as they are.
        needs: What it looks at.
    """

    name: str
    comparable: bool
    needs: ClassVar[Needs]

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without samples."""
        return self.needs not in {"nothing", "weights"}


@dataclass(frozen=True, slots=True)
class OfChance(Baseline):
    """Looks at nothing.

    Attributes:
        score: From how many channels, and the generator, to scores (n,).
    """

    needs: ClassVar[Needs] = "nothing"
    score: Callable[[int, np.random.Generator], Floats]


@dataclass(frozen=True, slots=True)
class OfWeights(Baseline):
    """Looks at the weights of a group.

    Attributes:
        score: From pieces (n, d) of the channels' long rows to scores (n,).
        columns: Whether the rows hold the consumers' columns too, not the producers' filters alone.
    """

    needs: ClassVar[Needs] = "weights"
    score: Callable[[Iterable[Floats]], Floats]
    columns: bool = False


@dataclass(frozen=True, slots=True)
class OfNorms(Baseline):
    """Looks at the scales of unfolded BatchNormalizations.

    Attributes:
        score: From the number of channels and the scales (n, m) of each normalization to scores (n,), NaN where there
            is none.
    """

    needs: ClassVar[Needs] = "weights"
    score: Callable[[int, Sequence[Floats]], Floats]


@dataclass(frozen=True, slots=True)
class OfSquares(Baseline):
    """Looks at a consumer's weights and at the size of what they read.

    Attributes:
        score: From weights (C, ...) and sums of squares (C,) to shares (C,).
    """

    needs: ClassVar[Needs] = "squares"
    score: Callable[[NDArray[np.floating], Floats], Floats]


@dataclass(frozen=True, slots=True)
class OfMaps(Baseline):
    """Looks at what consumers read.

    Attributes:
        score: From maps (N, C, *spatial) to one number per sample and index (N, C), of which the mean counts.
    """

    needs: ClassVar[Needs] = "maps"
    score: Callable[[NDArray[Any]], Floats]


@dataclass(frozen=True, slots=True)
class OfColumns(Baseline):
    """Looks at how the contributions of channels to a consumer's outputs go together.

    Attributes:
        score: From Q (n, n) of a group to scores (n,).
    """

    needs: ClassVar[Needs] = "columns"
    score: Callable[[Floats], Floats]


def chance(count: int, rng: np.random.Generator) -> Floats:
    """Return uniform numbers from [0, 1), (n,)."""
    return rng.random(count)


def mean_scale(count: int, scales: Sequence[Floats]) -> Floats:
    """Return the mean of |gamma| over all BatchNormalizations of a group, (n,); NaN where there is none.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. There training
    drives gamma towards zero; without that, the score says little.

    Args:
        count: Channels of the group, n.
        scales: gamma at the indices of each channel, (n, m), per normalization.
    """
    if not scales:
        return np.full(count, np.nan)
    return np.abs(np.concatenate(scales, axis=1)).mean(axis=1)


_TABLE: tuple[Baseline, ...] = (
    OfWeights("l1", comparable=False, score=l1_norms),
    OfWeights("l2", comparable=False, score=l2_norms, columns=True),
    OfWeights("fpgm", comparable=False, score=fpgm),
    OfWeights("lamp", comparable=True, score=lamp),
    OfNorms("bn-scale", comparable=True, score=mean_scale),
    OfChance("random", comparable=True, score=chance),
    OfSquares("wanda", comparable=True, score=wanda_shares),
    OfMaps("hrank", comparable=True, score=map_ranks),
    OfMaps("apoz", comparable=True, score=positive_shares),
    OfMaps("chip", comparable=True, score=nuclear_losses),
    OfColumns("thinet", comparable=False, score=removal_ranks),
)

BASELINES: Mapping[str, Baseline] = {baseline.name: baseline for baseline in _TABLE}
"""All baselines by name."""
