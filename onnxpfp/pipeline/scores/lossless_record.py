"""Channels that cost nothing, as a document: what was found once is taken out again without looking at data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast, get_args

import numpy as np

from onnxpfp.channels import ChannelGraph
from onnxpfp.linear.ops import LinearOp
from onnxpfp.lossless.types import Lossless, Merge, Removal, RemovalKind

__all__ = ["lossless_alike", "lossless_of", "lossless_to_dict"]


def lossless_to_dict(lossless: Lossless) -> dict[str, Any]:
    """Return it in types that JSON knows; floats keep every bit."""
    return {
        "gone": np.flatnonzero(~lossless.keep).tolist(),
        "merges": {str(position): [list(merge) for merge in some] for position, some in lossless.merges.items()},
        "shifts": {str(position): shift.tolist() for position, shift in lossless.shifts.items()},
        "removed": [asdict(removal) | {"channels": list(removal.channels)} for removal in lossless.removed],
        "emptied": {str(position): list(some) for position, some in lossless.emptied.items()},
        "quieted": sorted(lossless.quieted),
        "fillers": lossless.fillers,
    }


def lossless_alike(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    """Tell whether two records say the same of a network, whatever samples have shown it."""
    return _unsampled(one) == _unsampled(two)


def _unsampled(document: Mapping[str, Any]) -> dict[str, Any]:
    removed = document.get("removed")
    if not isinstance(removed, list):
        return dict(document)
    listed = cast("list[Any]", removed)
    return {**document, "removed": [each | {"samples": 0} if isinstance(each, dict) else each for each in listed]}


def lossless_of(document: dict[str, Any], graph: ChannelGraph, ops: Sequence[LinearOp]) -> Lossless:
    """Read what `lossless_to_dict` gave, for the network that it was found in.

    Args:
        document: What it gave.
        graph: The channels.
        ops: The consumers.

    Raises:
        ValueError: It does not fit the network.
        KeyError: Something is missing.
        TypeError: Something is of another kind.
        AttributeError: Something is of another kind.
    """
    keep = graph.keep_all()
    gone = [_below(number, graph.count + 1) for number in document["gone"]]
    keep[gone] = False
    merges: dict[int, tuple[Merge, ...]] = {}
    for position, some in document["merges"].items():
        op = ops[_below(int(position), len(ops))]
        indices = len(op.channels)
        merges[int(position)] = tuple((_below(j, indices), _below(k, indices), _finite(f)) for j, k, f in some)
    shifts = {
        _below(int(position), len(ops)): np.array([_finite(value) for value in shift], np.float64)
        for position, shift in document["shifts"].items()
    }
    emptied = {
        int(position): tuple(_below(index, len(ops[_below(int(position), len(ops))].channels)) for index in some)
        for position, some in document["emptied"].items()
    }
    quieted = frozenset(_below(number, graph.count + 1) for number in document["quieted"])
    removed = tuple(_removal(each, graph.count + 1) for each in document["removed"])
    return Lossless(keep, merges, shifts, removed, emptied, quieted, _below(document["fillers"], graph.count + 1))


def _removal(document: dict[str, Any], count: int) -> Removal:
    kind, source = document["kind"], document["source"]
    if kind not in get_args(RemovalKind) or source not in {"weights", "data"}:
        raise ValueError(f"{kind} by {source} is no reason to go")
    channels = tuple(_below(number, count) for number in document["channels"])
    samples = _below(document["samples"], 1 << 62)
    return Removal(str(document["group"]), cast("RemovalKind", kind), channels, source, samples)


def _below(value: object, limit: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise ValueError(f"{value!r} is no whole number from 0 to below {limit}")
    return value


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
