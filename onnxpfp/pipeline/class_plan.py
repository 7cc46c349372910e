"""Plans of a model without some of its classes, told in terms of the file, which has them all, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnxpfp.errors import PlanError
from onnxpfp.pipeline.kept_classes import KeptClasses
from onnxpfp.pipeline.plan import Plan, PlanEntry

__all__ = ["plan_of_file", "plan_of_rest"]

Entries = Mapping[str, PlanEntry]


def plan_of_file(plan: Plan, classes: KeptClasses) -> Plan:
    """Tell a plan of what the classes left in terms of the file.

    Args:
        plan: The plan of the model with the classes that stay.
        classes: What went before.
    """
    stored, computed = (
        _joined(*both) for both in zip((plan.initializers, plan.computed), classes.entries, strict=True)
    )
    return replace(plan, initializers=stored, computed=computed, classes=classes.planned)


def _joined(later: Entries, first: Entries) -> dict[str, PlanEntry]:
    """Join what two cuts, one after the other, keep of the weights."""
    joined = {**later, **first}
    for name in later.keys() & first.keys():
        before, after = first[name], later[name]
        keep = {**before.keep, **after.keep}
        for axis in before.keep.keys() & after.keep.keys():
            keep[axis] = tuple(before.keep[axis][index] for index in after.keep[axis])
        joined[name] = PlanEntry(before.shape, dict(sorted(keep.items())), after.scale)
    return joined


def plan_of_rest(plan: Plan, classes: KeptClasses) -> Plan:
    """Tell a plan of the file in terms of what its classes leave.

    Args:
        plan: The plan of the file.
        classes: What goes with its classes.

    Raises:
        PlanError: Its weights do not lose what goes with these.
    """
    stored, computed = (_split(*both) for both in zip((plan.initializers, plan.computed), classes.entries, strict=True))
    return replace(plan, initializers=stored, computed=computed, classes=None)


def _split(whole: Entries, first: Entries) -> dict[str, PlanEntry]:
    """Take the first of two cuts out of what both together keep of the weights."""
    left = dict(whole)
    for name, cut in first.items():
        entry = whole.get(name)
        if entry is None or entry.shape != cut.shape or not cut.keep.keys() <= entry.keep.keys():
            raise PlanError(f"the plan lets classes go, and keeps what goes with them of the weight '{name}'")
        keep = dict(entry.keep)
        for axis, kept in cut.keep.items():
            places = {index: place for place, index in enumerate(kept)}
            if not places.keys() >= set(entry.keep[axis]):
                raise PlanError(f"the plan keeps indices of '{name}' that go with its classes")
            keep[axis] = tuple(places[index] for index in entry.keep[axis])
            if len(keep[axis]) == len(kept):
                del keep[axis]
        shape = tuple(len(cut.keep.get(axis, range(size))) for axis, size in enumerate(entry.shape))
        left[name] = PlanEntry(shape, keep, entry.scale)
    return {name: entry for name, entry in left.items() if entry.keep or entry.scale}
