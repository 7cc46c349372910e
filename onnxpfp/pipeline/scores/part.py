"""What a file of scores has of one part of a network: its channels, what costs nothing, and the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Floats
from onnxpfp.calibrate.statistics import OpStatistics, merged, statistic_arrays, statistics_of
from onnxpfp.pipeline.scores.header import whole_numbers
from onnxpfp.pipeline.scores.lossless_record import lossless_alike
from onnxpfp.pipeline.strict_fields import DamagedError, Fields
from onnxpfp.refit.moments import Moments
from onnxpfp.score.output_moments import OutputSquares
from onnxpfp.score.pfp import upper_envelope

__all__ = ["ScoredGroup", "ScoredPart"]

KINDS = {"ops": OpStatistics, "squares": OutputSquares, "grams": Moments}
"""The statistics of a part, by the name of the field that has them."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group of channels.

    Attributes:
        name: The weight that brings its channels forth.
        step: The multiple in which its channels are kept, which channels that cost nothing fill up.
        current: Ids of its channels in what was measured, 0 where they cost nothing and went.
    """

    name: str
    step: int
    current: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPart:
    """The main graph, or a body of If, Loop or Scan, as it was measured.

    Attributes:
        channels: How many channels the part has.
        groups: Its groups.
        zeroed: How many of its subnormal weights count as zero.
        lossless: What costs nothing, as `lossless_to_dict` gives it.
        stays: Why nothing of it was measured; empty where it was.
        ops: Statistics of the consumers by name, of what is left.
        squares: Squares of what consumers give, by name.
        grams: Sums that Gram matrices are made of, by name.
    """

    channels: int
    groups: tuple[ScoredGroup, ...]
    zeroed: int = 0
    lossless: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stays: str = ""
    ops: Mapping[str, OpStatistics] = field(default_factory=dict[str, OpStatistics])
    squares: Mapping[str, OutputSquares] = field(default_factory=dict[str, OutputSquares])
    grams: Mapping[str, Moments] = field(default_factory=dict[str, Moments])

    @property
    def samples(self) -> int:
        """How many samples the statistics are of."""
        return max((each.samples for each in self.ops.values()), default=0)

    def sensitivities(self) -> Floats:
        """Return the largest sensitivity of every channel, by its id in what was measured."""
        parts = [(each.channels, each.sensitivity) for each in self.ops.values()]
        count = max((int(ids.max(initial=0)) for ids, _ in parts), default=0)
        return upper_envelope(parts, max(count, max((max(g.current, default=0) for g in self.groups), default=0)))

    def difference(self, other: ScoredPart) -> str:
        """Say in what other shards of the same samples must not differ; empty where they do not."""
        if self.stays or other.stays:
            # A body that cannot be measured on some of the samples stays.
            return ""
        same = lossless_alike(self.lossless, other.lossless) and self.channels == other.channels
        mine, theirs = ([(group.name, group.current) for group in each.groups] for each in (self, other))
        if not same or mine != theirs:
            return "other channels cost nothing"
        return "" if self.zeroed == other.zeroed else "other subnormal weights count as zero"

    def merge(self, other: ScoredPart) -> ScoredPart:
        """Return the statistics of both.

        Raises:
            CalibrationError: They are of different networks.
        """
        return replace(
            self,
            stays=self.stays or other.stays,
            ops=merged(self.ops, other.ops),
            squares=merged(self.squares, other.squares),
            grams=merged(self.grams, other.grams),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all but the arrays in types that JSON knows."""
        return {
            "channels": self.channels,
            "groups": [{"name": g.name, "step": g.step, "current": list(g.current)} for g in self.groups],
            "zeroed": self.zeroed,
            "lossless": dict(self.lossless),
            "stays": self.stays,
            **{kind: list(getattr(self, kind)) for kind in KINDS},
        }

    def arrays(self, number: int) -> dict[str, NDArray[Any]]:
        """Return the arrays; the number is that of the part."""
        return {
            name: array
            for kind in KINDS
            for name, array in statistic_arrays(getattr(self, kind), f"{number}.{kind}.").items()
        }

    @classmethod
    def read(cls, part: Fields, arrays: Mapping[str, NDArray[Any]], number: int) -> ScoredPart:
        """Read what `to_dict` and `arrays` gave.

        Raises:
            DamagedError: It is something else.
            KeyError: An array is missing.
            ValueError: An array is damaged.
        """
        names = {kind: [str(name) for name in part.listed(kind)] for kind in KINDS}
        statistics: dict[str, Any] = {
            kind: statistics_of(arrays, names[kind], of, f"{number}.{kind}.") for kind, of in KINDS.items()
        }
        read = cls(
            channels=part.count("channels", 0),
            groups=tuple(_group(each, part.title) for each in part.listed("groups")),
            zeroed=part.count("zeroed", 0),
            lossless=part.inner("lossless").raw,
            stays=part.text("stays"),
            **statistics,
        )
        for name, statistic in read.ops.items():
            _check_op(name, statistic, read.channels)
        for name, squares in read.squares.items():
            _check(name, {"outputs": (squares.outputs, 2)}, [squares.count])
        for name, sums in read.grams.items():
            of_targets = {"t": (sums.t, 2), "tt": (sums.tt, 2), "tu": (sums.tu, 3)}
            _check(name, {"u": (sums.u, 2), "uu": (sums.uu, 3), **of_targets}, [sums.count])
        return read


def _group(value: object, title: str) -> ScoredGroup:
    group = Fields.of(f"a group of {title}", value, ("name", "step", "current"))
    current = whole_numbers(group.listed("current"), f"'current' of {group.title}")
    return ScoredGroup(group.text("name"), group.count("step", 1), current)


def _check_op(name: str, statistic: OpStatistics, channels: int) -> None:
    """Refuse statistics of an op that cannot be.

    Raises:
        DamagedError: They cannot.
    """
    ids, shares = statistic.channels, statistic.sensitivity
    sums = {"patch_sum": (statistic.patch_sum, 2), "square_sum": (statistic.square_sum, 1)}
    _check(name, {"channels": (ids, 1), "sensitivity": (shares, 1), **sums}, [statistic.patches, statistic.samples])
    sound = ids.dtype.kind == "i" and ids.shape == shares.shape and bool((np.diff(ids) > 0).all())
    if not sound or (ids.size and not 0 < int(ids[0]) <= int(ids[-1]) <= channels):
        raise DamagedError(f"the channels of '{name}' are none")
    if not ((shares >= 0) & (shares <= 1)).all():
        raise DamagedError(f"a sensitivity of '{name}' is outside [0, 1]")
    # Squares of large numbers may be infinite.
    if not np.isfinite(statistic.patch_sum).all() or not (statistic.square_sum >= 0).all():
        raise DamagedError(f"a sum of '{name}' is no number")


def _check(name: str, arrays: Mapping[str, tuple[NDArray[Any], int]], counts: Sequence[object]) -> None:
    """Refuse arrays that are none of numbers or have other axes, and counts that are none.

    Raises:
        DamagedError: There is one.
    """
    for part, (array, axes) in arrays.items():
        if np.asarray(array).dtype.kind not in "fi" or np.ndim(array) != axes:
            raise DamagedError(f"'{part}' of '{name}' is no array of numbers with {axes} axes")
    whole_numbers(counts, f"a count of '{name}'")
