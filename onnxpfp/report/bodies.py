"""The bodies of If, Loop and Scan in a pruning: the values, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.comparison.equivalence import Equivalence
from onnxpfp.report.groups import ROWS
from onnxpfp.report.page import Column, Table, finite, number

__all__ = ["BodyReport", "bodies_table"]


@dataclass(frozen=True, slots=True)
class BodyReport:
    """One body of If, Loop or Scan.

    Attributes:
        place: The node that carries it, and the attribute: `If_0/then_branch`.
        runs: How often it runs in one run of the network, on average over the samples; None where it was not looked at.
        macs_before: Multiply-adds of one run of it.
        macs_after: The same of the pruned one.
        samples: Runs of it that its channels were chosen and checked by.
        oracle: The pruned body against the masked original.
        reason: Why it stays as it is; empty where something of it may go.
    """

    place: str
    runs: float | None
    macs_before: int | None
    macs_after: int | None
    samples: int
    oracle: Equivalence | None
    reason: str


def bodies_table(bodies: Sequence[BodyReport]) -> Table:
    """Show how often each runs, how large it was and is, and how near the masked original it is."""
    rows: list[tuple[str, ...]] = []
    for body in bodies:
        if body.macs_before is None or body.macs_after is None or body.runs is None or body.oracle is None:
            rows.append((body.place, "-", "-", "-", f"stays: {body.reason}"))
            continue
        macs = f"{body.macs_before:,}", f"{body.macs_after:,}"
        verified = f"largest difference {finite(body.oracle.error)}, {body.oracle.tolerance:.0e} allowed"
        rows.append((body.place, f"{body.runs:.3g}", *macs, f"stays: {body.reason}" if body.reason else verified))
    columns = (
        Column("body"),
        *map(number, ("runs", "MACs\nbefore", "MACs\nafter")),
        Column("masked original == pruned"),
    )
    return Table(columns, rows, of="bodies", most=ROWS, flag="-v")
