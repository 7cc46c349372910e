"""How little of a model can be kept, as values for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxpfp.allocation.prunability import Prunability
from onnxpfp.pipeline.prunability_curves import Point
from onnxpfp.report.inspection import NodeName
from onnxpfp.report.json_form import plain

__all__ = ["GroupPrunability", "PrunabilityReport"]

FORMAT = "onnxpfp-prunability"
VERSION = 1
"""Of the JSON form: it changes when a field changes its name or meaning, not when one is added."""


@dataclass(frozen=True, slots=True)
class GroupPrunability:
    """How little of one group can be kept.

    Attributes:
        name: The weight that brings its channels forth.
        channels: How many it has.
        consumers: The nodes that read it.
        prunability: Shares of its channels.
        curve: What was measured, the whole group first.
    """

    name: str
    channels: int
    consumers: tuple[NodeName, ...]
    prunability: Prunability
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class PrunabilityReport:
    """How little of a model can be kept. All of it depends on how channels are chosen and made up for.

    Attributes:
        file: The file, or None for a model that was given as an object.
        inputs: Input shapes of one run, at which MACs were counted.
        tolerance: Largest loss that counts as no harm.
        losses: How the drift of each output that counts is measured; the loss is their sum.
        score: What ranks the channels.
        select: How they are selected.
        allocate: What sets the widths where the whole network is pruned.
        compensate: What is done about dropped channels where the whole network is pruned.
        compensate_groups: The same where one group is narrowed alone.
        samples: Samples that scores and fits were made on.
        samples_groups: Other samples, on which the groups were measured.
        samples_network: Other samples again, on which the whole network was measured.
        macs: Multiply-adds of one run of the whole network.
        network: How little of its MACs can be kept.
        curve: What was measured of the whole network, all of it first.
        groups: The groups, the most fragile first.
        providers: Where onnxruntime really ran.
        seconds: Time by phase, as in `report.pruning.Report`; moreover groups: every group is narrowed alone, and
            network: the whole network is pruned to shares of its MACs, with all that takes, and measured.
        notes: What the user should know.
    """

    file: str | None
    inputs: Mapping[str, tuple[int, ...]]
    tolerance: float
    losses: Mapping[str, str]
    score: str
    select: str
    allocate: str
    compensate: str
    compensate_groups: str
    samples: int
    samples_groups: int
    samples_network: int
    macs: int
    network: Prunability
    curve: tuple[Point, ...]
    groups: tuple[GroupPrunability, ...]
    providers: tuple[str, ...]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in types that JSON knows; `docs/prunability.md` describes the fields."""
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION, **plain(asdict(self))}
        return document
