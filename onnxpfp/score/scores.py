"""The scores of all channels, and what the bounds need to know about the consumers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One score per channel.

    Attributes:
        method: What they are: the name of a criterion, coreset-share where pfp has no data, or none.
        values: Score by channel id, (channels + 1,) float64; entry 0 is unused.
        energy: Mean share of the consumers' output energy by channel id, where there are data.
        outputs: Outputs times patches times sign quadrants of each group's consumers, for the
            bounds, (groups,) int64.
        weight: Log term of each group's draws, (groups,) float64.
        constant: What the values of each group are multiplied by in its bound, (groups,) float64.
        unbounded: Why the values of each group bound nothing, (groups,); empty where they do.
        summed: Whether a value sums up over a group's consumers already; a sensitivity is the largest of them.
        additive: Whether the values bound what a channel adds to an output in plain numbers, not as a share.
        widths: How many channels of each group the criterion itself lets stay, (groups,); empty where it says nothing.
        closest: Largest cosine of the maps of two channels of each group, where these were compared.
    """

    method: str
    values: NDArray[np.float64]
    energy: NDArray[np.float64] | None
    outputs: NDArray[np.int64]
    weight: NDArray[np.float64]
    constant: NDArray[np.float64]
    unbounded: tuple[str, ...]
    summed: bool = False
    additive: bool = False
    widths: tuple[int, ...] = ()
    closest: tuple[float, ...] = ()

    @classmethod
    def nothing(cls, channels: int) -> Self:
        """Score nothing, where nothing is to be chosen: a plan says what stays, or all of it must."""
        none = np.zeros(0)
        return cls("none", np.zeros(channels + 1), None, np.zeros(0, np.int64), none, none, ())
