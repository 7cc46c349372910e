"""What is measured of maps for feature statistics: what ranks, how much stays, and what merging needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.feature_maps import GroupMaps, maps_for, measured_maps, read_maps
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.pipeline.merging import MergeMaps
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.feature_statistics import FeatureStatistics

__all__ = ["Features", "measure_features"]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What is measured of maps.

    Attributes:
        maps: The maps of every group that rank; None where none are looked at.
        widths: How many channels of each group the criterion lets stay; empty where it says nothing.
        closest: Largest cosine of the maps of two channels of each group; empty where none were compared.
        merging: What merging needs to know; empty where nothing is merged.
    """

    maps: Sequence[GroupMaps] | None = None
    widths: tuple[int, ...] = ()
    closest: tuple[float, ...] = ()
    merging: tuple[MergeMaps, ...] = ()


def measure_features(context: RunContext, criterion: Criterion, measurements: Measurements) -> Features:
    """Measure the maps of all groups for a criterion that chooses by them, and for merging by them."""
    merges = context.compensation == "merge"
    if not isinstance(criterion, FeatureStatistics) or not (merges or context.chooses):
        return Features()
    analysis, ops = measurements.analysis, measurements.ops
    maps = maps_for(criterion, analysis, ops, measurements)
    removals = [criterion.removal(each.statistics) for each in maps]
    widths = tuple(
        group.channels.size - len(removal.order) for group, removal in zip(analysis.graph.groups, removals, strict=True)
    )
    closest = tuple(removal.closest for removal in removals) if criterion.compares else ()
    if not merges:
        return Features(maps, widths, closest)
    read = maps if criterion.maps == "after" else measured_maps(read_maps(analysis, ops), measurements, gram=True)
    merging = tuple(MergeMaps(each, removal.by_dfs) for each, removal in zip(read, removals, strict=True))
    return Features(maps, widths, closest, merging)
