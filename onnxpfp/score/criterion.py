"""The interface of criteria: a criterion ranks the channels of a group.

A criterion of your own is a class with a name, what it needs, and a formula; pass an instance as `score=`:

    class LargestFilter(Criterion):
        name, title = "largest", "largest weight of the filters"
        needs = frozenset({"weights"})

        def score(self, group):
            return np.max([np.abs(rows).max(axis=1) for rows in group.rows()], axis=0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxpfp.score.group_data import GroupData

__all__ = ["Criterion", "Need"]

Need = Literal[
    "weights",
    "scales",
    "squares",
    "maps",
    "map-statistics",
    "contributions",
    "shares",
    "sensitivity",
    "gram",
    "reach",
    "random",
]
"""The data that a criterion looks at; `GroupData` and `ConsumerData` say what each fills."""
MEASURED: frozenset[Need] = frozenset(
    {"squares", "maps", "map-statistics", "contributions", "shares", "sensitivity", "gram"}
)
"""Those that come from samples."""


class Criterion(ABC):
    """Ranks the channels of a group by one number each, not negative; channels with higher ones stay.

    Attributes:
        name: What users call it.
        title: What the report calls it.
        needs: The data that it looks at.
        comparable: Whether scores of different groups compare as they are; else each group's are divided by their sum,
            so that no group loses more than others because its weights are of another size.
        optional_data: Whether it can do without the samples that it needs, in a form of its own.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    comparable: ClassVar[bool] = False
    optional_data: ClassVar[bool] = False

    @property
    def needs_data(self) -> bool:
        """Whether it cannot do without samples."""
        return bool(self.needs & MEASURED) and not self.optional_data

    @abstractmethod
    def score(self, group: GroupData) -> NDArray[np.float64]:
        """Score the channels of a group, (n,) float64, finite and not negative; NaN where it cannot say."""

    def of_maps(self, maps: NDArray[Any]) -> NDArray[np.float64]:
        """Return one number per sample and index, (N, C), of maps (N, C, *spatial); their mean over samples counts.

        Only a criterion with the need "maps" has it.
        """
        raise TypeError(f"criterion {self.name!r} needs maps and does not say what it makes of them")
