"""Layers that became two of low rank in a pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxpfp.report.page import Column, Element, Heading, Line, Table, number

__all__ = ["RankReport", "about_ranks"]


@dataclass(frozen=True, slots=True)
class RankReport:
    """A layer that became two.

    Attributes:
        name: The node that it was.
        op: Its type.
        scheme: How its kernel is divided: all axes in the first op (channel), or some in each (spatial).
        rank: Filters of the first op.
        kept: Share of the variance of its outputs that the rank can keep, alone and with the inputs that it has in the
            original, before refits; null where a plan says the rank.
    """

    name: str
    op: str
    scheme: Literal["channel", "spatial"]
    rank: int
    kept: float | None


def about_ranks(ranked: Sequence[RankReport]) -> Iterator[Element]:
    """Show the layers."""
    yield Heading("Layers that became two of low rank")
    columns = (Column("node"), Column("op"), Column("scheme"), number("rank"))
    rows = [(each.name, each.op, each.scheme, f"{each.rank}") for each in ranked]
    shares = [f"{100 * each.kept:.2f} %" for each in ranked if each.kept is not None]
    if not shares:
        # A plan says all of the ranks or none.
        yield Table(columns, rows, of="layers")
        return
    with_shares = [(*row, share) for row, share in zip(rows, shares, strict=True)]
    yield Table((*columns, number("kept")), with_shares, of="layers")
    yield Line(
        "kept: share of the variance of its outputs on the samples, before refits, by the layer alone with the inputs "
        "that it has in the original"
    )
