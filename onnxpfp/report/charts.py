"""What a page shows in pictures, as values and without a word on its looks; text on a console leaves it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Bars", "Chart", "Curve", "NumberStyle", "Plot", "Profile", "Series", "Tile", "Tiles"]

NumberStyle = Literal["count", "share", "number"]
"""How a number is written: a count with a letter for thousands, a share in per cent, any other with three digits."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that the page begins with.

    Attributes:
        title: What it is.
        value: The figure.
        said: What there is to say about it.
        share: Share of the original that is left, to be drawn as a bar; None where it is none.
    """

    title: str
    value: str
    said: str = ""
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Tiles:
    """The figures that the page begins with."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Series:
    """One number for each label of bars.

    Attributes:
        name: What the numbers are.
        values: The numbers; None where there is none.
        faint: Whether it is drawn as what is gone, or what was before.
    """

    name: str
    values: Sequence[float | None]
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars, one for each label and series.

    Attributes:
        title: What is shown.
        labels: What a bar is about.
        series: The numbers.
        axis: What the numbers are.
        unit: How they are written.
        stacked: Whether the series stand on each other.
        said: What there is to say about it.
        details: Charts of a label, which are shown where it is chosen.
        of: What a label names, such as "group".
        order: In what order the labels come.
    """

    title: str
    labels: Sequence[str]
    series: Sequence[Series]
    axis: str
    unit: NumberStyle = "count"
    stacked: bool = False
    said: str = ""
    details: Mapping[str, Sequence[Chart]] = field(default_factory=dict[str, "Sequence[Chart]"])
    of: str = "row"
    order: str = "front to back"


@dataclass(frozen=True, slots=True)
class Profile:
    """One number for each channel of a group, the largest first.

    Attributes:
        title: What is shown.
        values: The numbers, by channel; None where there is none.
        gone: Channels that went.
        axis: What the numbers are.
        said: What there is to say about it.
    """

    title: str
    values: Sequence[float | None]
    gone: Sequence[int]
    axis: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one kind.

    Attributes:
        name: What they are.
        points: Their places.
        labels: What each is, where it has a name.
        faint: Whether it is drawn in the background.
        joined: Whether a line goes through them.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    faint: bool = False
    joined: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """Curves and points over one axis.

    Attributes:
        title: What is shown.
        across: What goes to the right.
        up: What goes up.
        curves: The curves.
        units: How the numbers across and up are written.
        limit: A height that is marked; None where there is none.
        limit_name: What that height is.
        said: What there is to say about it.
    """

    title: str
    across: str
    up: str
    curves: Sequence[Curve]
    units: tuple[NumberStyle, NumberStyle] = ("share", "number")
    limit: float | None = None
    limit_name: str = ""
    said: str = ""


Chart = Bars | Profile | Plot
