"""The report of an inspection: the groups that can be pruned, their share of the model, and why the rest stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.channels import Fixed
from onnxpfp.comparison.latency import LatencyFindings
from onnxpfp.counted import counted
from onnxpfp.model.activation_memory import ActivationPeak
from onnxpfp.pipeline.footprint import Footprint
from onnxpfp.report.activations import peak_fact
from onnxpfp.report.charts import Bars, Series, Tile, Tiles
from onnxpfp.report.comparison import latency_fact, ms
from onnxpfp.report.formats import plain
from onnxpfp.report.page import ATTENTION, Column, Element, Facts, Heading, Line, Table, Title, number, sizes
from onnxpfp.report.reasons import example

__all__ = ["InspectedBody", "InspectedGroup", "Inspection", "NodeName", "Stay", "Subnormal"]

FORMAT = "onnxpfp-inspection"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node.

    Attributes:
        op: Its op type.
        name: Its name, or its first output where it has none.
    """

    op: str
    name: str


@dataclass(frozen=True, slots=True)
class InspectedGroup:
    """Channels that compete with each other.

    Attributes:
        name: The weight that brings them forth.
        channels: How many there are.
        behind: What would go if none of them stayed. A number lies in the groups of all its axes, so the groups add up
            to more than the model.
        consumers: The nodes that read them.
    """

    name: str
    channels: int
    behind: Footprint
    consumers: tuple[NodeName, ...]


@dataclass(frozen=True, slots=True)
class Stay:
    """Axes of weights that stay for reasons of one kind.

    Attributes:
        reason: The kind: the reasons without the names in them.
        axes: The axes, each with its own reason; those with the most parameters first.
        behind: What lies on their indices that stay. A number may lie on several such axes, and in a channel too.
        stuck: What of these weights lies in no channel that can go.
    """

    reason: str
    axes: tuple[Fixed, ...]
    behind: Footprint
    stuck: Footprint


@dataclass(frozen=True, slots=True)
class InspectedBody:
    """One body of If, Loop or Scan.

    Attributes:
        place: The node that carries it, and the attribute: `If_0/then_branch`.
        runs: How often it runs in one run of the model on made-up inputs; a branch counts half. None where it stays.
        macs: Multiply-adds of one run of it.
        reason: Why all of it stays; empty where its channels are found.
    """

    place: str
    runs: float | None
    macs: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Subnormal:
    """Subnormal numbers among the weights of linear ops, which some CPUs multiply by far slower than by others.

    Attributes:
        weights: How many there are.
        tensors: In how many stored tensors.
        zeroed: Weights that a pruning without data would write as zero: subnormal ones, and all others of filters that
            nothing can tell from their bias. None where it was not looked at.
        latency: The model as it is (`original`) beside the same with these zeros (`pruned`); None where nothing is
            subnormal or it was not asked for.
    """

    weights: int = 0
    tensors: int = 0
    zeroed: int | None = None
    latency: LatencyFindings | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The inspection of a model before it is pruned.

    Attributes:
        file: The file, or None for a model that was given as an object.
        opsets: Version of every domain; the domain of ONNX is ai.onnx.
        ir_version: Version of the file format.
        nodes: How many nodes the main graph has.
        inputs: The input shapes at which shapes were found and MACs were counted.
        attention: What goes from an attention: whole heads, or the same part of every head (width).
        total: The whole model.
        reachable: What of it lies in at least one channel that can go.
        groups: The groups of channels, the most expensive first: by share of parameters plus share of MACs.
        stays: What stays and why, in the same order.
        bodies: Bodies of If, Loop and Scan in which something multiplies; names in one stand behind its place.
        activations: The peak of the main graph's activations in one run.
        subnormal: Subnormal numbers among the weights of linear ops.
        notes: What the user should know about the file.
        nothing: Why there are no groups; empty where there are some.
    """

    file: str | None
    opsets: Mapping[str, int]
    ir_version: int
    nodes: int
    inputs: Mapping[str, tuple[int, ...]]
    attention: str
    total: Footprint
    reachable: Footprint
    groups: tuple[InspectedGroup, ...]
    stays: tuple[Stay, ...]
    bodies: tuple[InspectedBody, ...]
    activations: ActivationPeak
    subnormal: Subnormal = Subnormal()
    notes: tuple[str, ...] = ()
    nothing: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/inspect.md` describes the fields."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain(asdict(self))}
        return document

    def page(self, *, full: bool, wide: bool) -> Iterator[Element]:
        """Show what could be pruned, and why the rest stays."""
        opsets = ", ".join(
            f"{'opset' if domain == 'ai.onnx' else domain} {version}" for domain, version in self.opsets.items()
        )
        nodes = counted(self.nodes, "node")
        yield Title(f"{self.file or 'the model'}: {opsets}, IR {self.ir_version}, {nodes}")
        yield self._tiles()
        yield Facts(
            {
                "parameters": _reached(self.total.params, self.reachable.params),
                "MACs, one run": _reached(self.total.macs, self.reachable.macs),
                "counted at": sizes(self.inputs) or "no inputs",
                "activations": peak_fact(self.activations),
                **_subnormal(self.subnormal),
                **ATTENTION[self.attention],
            }
        )
        if self.groups:
            yield Heading("Groups of channels")
            yield self._behind_groups()
            yield _groups_table(self.groups, named=2 if wide else 1)
        else:
            listed = self.stays or self.bodies
            why = "what stays and why is listed below" if listed else self.nothing
            yield Line(f"\nNothing in it can be pruned: {why}.")
        if self.bodies:
            yield Heading("Bodies of If, Loop and Scan")
            yield _bodies_table(self.bodies)
        if self.stays:
            yield Heading("What stays, and why")
            yield self._behind_stays()
            yield _stays_table(self.stays)
            yield Line(
                "fixed: parameters of these weights that lie in no channel that can go, so that no pruning removes them"
            )

    def _tiles(self) -> Tiles:
        """Show the size of the model, and how much of it can be pruned."""
        counts = (
            ("Parameters", self.total.params, self.reachable.params),
            ("Multiply-adds, one run", self.total.macs, self.reachable.macs),
        )
        tiles = [
            Tile(title, f"{total:,}", f"{100 * reached / total:.1f} % in channels that may go", reached / total)
            for title, total, reached in counts
            if total
        ]
        at = f"at {self.activations.op}" if self.activations.op else "of the inputs"
        tiles.append(Tile("Peak of activations, bytes", f"{self.activations.bytes:,}", f"the most at once, {at}"))
        channels = sum(group.channels for group in self.groups)
        tiles.append(Tile("Groups of channels", f"{len(self.groups):,}", f"{channels:,} channels that compete in them"))
        return Tiles(tiles)

    def _behind_groups(self) -> Bars:
        """Show where the multiply-adds and parameters lie."""
        return Bars(
            "What lies behind every group",
            [group.name for group in self.groups],
            _shares([group.behind for group in self.groups], self.total),
            axis="share of the model",
            unit="share",
            said="A number lies in the groups of all its axes, so they add up to more than the model.",
            of="group",
            order="the most expensive first",
        )

    def _behind_stays(self) -> Bars:
        """Show what lies behind each reason for which something stays."""
        return Bars(
            "What lies on the axes that stay, by reason",
            [stay.reason for stay in self.stays],
            _shares([stay.behind for stay in self.stays], self.total),
            axis="share of the model",
            unit="share",
            of="reason",
            order="the most expensive first",
        )


def _shares(behind: Sequence[Footprint], total: Footprint) -> list[Series]:
    return [
        Series("multiply-adds", [each.macs / max(total.macs, 1) for each in behind]),
        Series("parameters", [each.params / max(total.params, 1) for each in behind]),
    ]


def _subnormal(found: Subnormal) -> dict[str, str]:
    """Say how many weights slow the network down for nothing; nothing where there are none."""
    if not found.weights:
        return {}
    weights = counted(found.weights, "weight")
    tensors = counted(found.tensors, "tensor")
    told = f"{weights} in {tensors}, slow on some CPUs; prune writes as zero those that no result can tell"
    rows = {"subnormal": told + _without_them(found)}
    if found.latency is not None:
        rows["latency"] = latency_fact(found.latency, "with zeros over as it is")
    return rows


def _without_them(found: Subnormal) -> str:
    """Say what a run takes without them; nothing where that was not measured."""
    latency = found.latency
    if latency is None or latency.original is None or latency.pruned is None or latency.ratio is None:
        return ""
    times = f"{ms(latency.original.median_ms)} -> {ms(latency.pruned.median_ms)} ms"
    zeros = f"with {found.zeroed:,} weights as zero"
    return f"; here, {times} {zeros}" if latency.ratio.high < 1 else f"; here, a run is no faster {zeros}: {times}"


def _reached(total: int, reachable: int) -> str:
    return f"{total:,}, {100 * reachable / total:.1f} % in channels that may go" if total else "0"


def _groups_table(groups: Sequence[InspectedGroup], *, named: int) -> Table:
    """List groups; so many consumers are named of each."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        first = ", ".join(f"{node.op} '{node.name}'" for node in group.consumers[:named])
        left = len(group.consumers) - named
        readers = f"{first} and {left} more" if left > 0 else first
        rows.append(
            (group.name, f"{group.channels:,}", _short(group.behind.params), _short(group.behind.macs), readers)
        )
    columns = (Column("group"), *map(number, ("channels", "params", "MACs")), Column("read by"))
    return Table(columns, rows, of="groups")


def _bodies_table(bodies: Sequence[InspectedBody]) -> Table:
    rows = [
        (body.place, f"{body.runs:.3g}", _short(body.macs), "")
        if body.runs is not None and body.macs is not None
        else (body.place, "-", "-", body.reason)
        for body in bodies
    ]
    return Table((Column("body"), *map(number, ("runs", "MACs")), Column("why it stays")), rows, of="bodies")


def _stays_table(stays: Sequence[Stay]) -> Table:
    columns = (*map(number, ("axes", "params", "MACs", "fixed")), Column("why they stay, for example"))
    rows = [
        (
            f"{len(stay.axes):,}",
            *(_short(amount) for amount in (stay.behind.params, stay.behind.macs, stay.stuck.params)),
            f"{stay.reason}: {example(stay.axes[0])}",
        )
        for stay in stays
    ]
    return Table(columns, rows, of="reasons")


def _short(number: int) -> str:
    """Write a count with three digits and a unit."""
    rounded = int(float(f"{number:.2e}"))
    for unit, letter in _UNITS:
        if rounded >= unit:
            digits = 2 if rounded < 10 * unit else 1 if rounded < 100 * unit else 0
            return f"{rounded / unit:.{digits}f} {letter}"
    return str(number)
