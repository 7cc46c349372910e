"""An inspection for people, as tables on a console."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxpfp.report.inspection import InspectedGroup, Inspection, Stay
from onnxpfp.report.reasons import example
from onnxpfp.report.tables import ATTENTION, facts, heading, indented, more, print_clean

__all__ = ["print_inspection"]

WIDE = 110
"""Columns from which a row names two consumers of a group in place of one."""
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def print_inspection(inspection: Inspection, console: Console, *, top: int | None) -> None:
    """Print what could be pruned, and why the rest stays.

    Args:
        inspection: What is known about the model.
        console: Where to.
        top: Most rows of a table; None shows all.
    """
    print_clean(console, lambda: _print_sections(inspection, console, top))


def _print_sections(inspection: Inspection, console: Console, top: int | None) -> None:
    console.print(Text(_title(inspection), style="bold"))
    console.print(facts(_facts(inspection)))
    if inspection.groups:
        console.print(heading("Groups of channels"))
        console.print(_groups(inspection.groups[:top], named=2 if console.width >= WIDE else 1))
        more(console, len(inspection.groups[top:]) if top else 0, "groups", "--all")
    else:
        why = "what stays and why is listed below" if inspection.stays else "no Conv, Gemm or MatMul has weights in it"
        console.print(indented(f"\nNothing in it can be pruned: {why}."))
    if inspection.stays:
        console.print(heading("What stays, and why"))
        console.print(_stays(inspection.stays[:top]))
        more(console, len(inspection.stays[top:]) if top else 0, "reasons", "--all")
        console.print(indented("stuck: parameters of these weights that lie in no channel"))


def _title(inspection: Inspection) -> str:
    opsets = ", ".join(
        f"{'opset' if domain == 'ai.onnx' else domain} {version}" for domain, version in inspection.opsets.items()
    )
    nodes = "1 node" if inspection.nodes == 1 else f"{inspection.nodes:,} nodes"
    return f"{inspection.file or 'the model'}: {opsets}, IR {inspection.ir_version}, {nodes}"


def _facts(inspection: Inspection) -> dict[str, str]:
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in inspection.inputs.items())
    return {
        "parameters": _reached(inspection.total.params, inspection.reachable.params),
        "MACs, one run": _reached(inspection.total.macs, inspection.reachable.macs),
        "counted at": shapes or "no inputs",
        **ATTENTION[inspection.attention],
    }


def _reached(total: int, reachable: int) -> str:
    return f"{total:,}, {100 * reachable / total:.1f} % in channels that may go" if total else "0"


def _groups(groups: Sequence[InspectedGroup], *, named: int) -> Table:
    table = Table(box=box.SIMPLE, collapse_padding=True)
    table.add_column("group", overflow="fold")
    for title in ("channels", "params", "MACs"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("read by", overflow="fold")
    for group in groups:
        numbers = (f"{group.channels:,}", _short(group.behind.params), _short(group.behind.macs))
        table.add_row(group.name, *numbers, _readers(group, named))
    return table


def _readers(group: InspectedGroup, named: int) -> str:
    first = ", ".join(f"{node.op} '{node.name}'" for node in group.consumers[:named])
    left = len(group.consumers) - named
    return f"{first} and {left} more" if left > 0 else first


def _stays(stays: Sequence[Stay]) -> Table:
    table = Table(box=box.SIMPLE, collapse_padding=True)
    for title in ("axes", "params", "MACs", "stuck"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("why they stay, for example", overflow="fold")
    for stay in stays:
        behind = stay.behind
        numbers = (_short(behind.params), _short(behind.macs), _short(stay.stuck.params))
        table.add_row(f"{len(stay.axes):,}", *numbers, f"{stay.reason}: {example(stay.axes[0])}")
    return table


def _short(number: int) -> str:
    """Write a count with three digits and a unit."""
    rounded = int(float(f"{number:.2e}"))
    for unit, letter in _UNITS:
        if rounded >= unit:
            digits = 2 if rounded < 10 * unit else 1 if rounded < 100 * unit else 0
            return f"{rounded / unit:.{digits}f} {letter}"
    return str(number)
