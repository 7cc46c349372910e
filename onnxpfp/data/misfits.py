"""What to do about an array that does not fit an input: transpose it, give it a batch axis, another type or size."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.data.inputs import InputSpec, size_ref

__all__ = ["shape_advice", "type_advice"]

_MOST_AXES = 5
"""Orders of more axes are too many to be meant."""
_PIXELS = 255


def shape_advice(spec: InputSpec, got: tuple[int, ...], axis: int | None) -> str:
    """Say how an array of a shape comes to fit an input; nothing where no simple step does it.

    Args:
        spec: The input.
        got: The shape of the array.
        axis: The axis of the samples, which may have any length; None is the input's own shape.
    """
    wanted = tuple(None if number == axis else dim for number, dim in enumerate(spec.shape))
    if len(got) == len(wanted) <= _MOST_AXES:
        order = _order(got, wanted)
        if order is not None:
            there = tuple(got[at] for at in order)
            return f"another order of axes fits: data.transpose{order} has shape {size_ref(there)}"
        off = [at for at, (size, dim) in enumerate(zip(got, wanted, strict=True)) if dim not in (None, size)]
        sizes = ", ".join(f"axis {at} must be {wanted[at]}, not {got[at]}" for at in off)
        return f"{sizes}: check the axis order (NCHW or NHWC), resize, crop or pad" if off else ""
    if len(got) == len(wanted) - 1 and axis is not None and _fits(got, wanted[:axis] + wanted[axis + 1 :]):
        index = ", ".join([":"] * axis + ["None"]) if axis else "None"
        return f"this is one sample without its batch axis: data[{index}] has one"
    return ""


def _order(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """Return the order of axes that fits; of several the one that most likely is meant."""
    orders = [order for order in permutations(range(len(got))) if _fits(tuple(got[at] for at in order), wanted)]
    # The first axis stays, then neighbours do, as height and width of images do.
    return max(
        orders,
        key=lambda order: (
            order[0] == 0,
            sum(two == one + 1 for one, two in pairwise(order)),
            sum(at == place for place, at in enumerate(order)),
        ),
        default=None,
    )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(dim in (None, size) for size, dim in zip(shape, wanted, strict=True))


def type_advice(spec: InputSpec, array: NDArray[Any]) -> str:
    """Say how an array of another type comes to fit an input."""
    kind, wanted = array.dtype.kind, spec.dtype
    if kind == "u" and wanted.kind == "f":
        return (
            f"pixels from 0 to {_PIXELS} become what the network was trained on, such as "
            f"(data / {_PIXELS}).astype(np.{wanted}), less the mean, by the deviation"
        )
    if kind == "f" and wanted.kind in "iu":
        return (
            f"data.astype(np.{wanted}) drops fractions: check the range that the model expects, such as 0 to {_PIXELS}"
        )
    if kind in "iu" and wanted.kind in "iu" and np.dtype(wanted).itemsize < array.dtype.itemsize:
        limits = np.iinfo(wanted)
        return f"convert with data.astype(np.{wanted}), if all numbers are from {limits.min} to {limits.max}"
    return f"convert with data.astype(np.{wanted}) after any scaling"
