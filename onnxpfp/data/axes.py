"""Sample axes: the axis of each input along which the samples lie, as far as the model alone says it.

Cases, the first that applies:

    1. The user says it (`--sample-axis`), of the input or of one with an axis of the same name.
    2. An input without axes has none: one value for all samples, or one for each.
    3. Exactly one free axis is called by a word for the batch: that one. N and B are no such words where axis 0 is
       free, too, unless that is called by a word for a length.
    4. Axis 0 is free: it, unless its name is that of another axis of an input that came before. Then it is the axis
       that is called like that input's sample axis, or none: a mask over positions is the same for all samples.
    5. No axis is free: axis 0, in whole batches of its length.
    6. One axis is free: that one, unless it is called by a word for a length; then axis 0, which is fixed.
    7. Several are free, not axis 0: the one that is called like the sample axis of another input. Where none is, axis 0
       if its length is 1 (images of free size, one by one); else the axis is not known, and the user has to say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxpfp.data.inputs import InputSpec
from onnxpfp.errors import OptionError
from onnxpfp.model.axis_names import may_mean_batch, means_batch, means_length

__all__ = ["SampleAxes", "sample_axes"]

SampleAxes = Mapping[str, int | None]
"""The sample axis by input: None where it has none; inputs of which it is not known are missing."""


def sample_axes(specs: Sequence[InputSpec], given: SampleAxes | None = None) -> dict[str, int | None]:
    """Find the sample axis of every input.

    Args:
        specs: The inputs.
        given: What the user says.

    Raises:
        OptionError: He names no input, or an axis that it does not have.
    """
    axes: dict[str, int | None] = _checked(specs, given or {})
    said = {spec.symbol(axis) for spec in specs if (axis := axes.get(spec.name)) is not None} - {""}
    called: set[str] = set(said)
    others: set[str] = {
        spec.symbol(axis) for spec in specs if spec.name in axes for axis in spec.free if axis != axes[spec.name]
    }
    # Inputs that say it in so many words come first, for they tell about the others.
    for spec in sorted(specs, key=lambda spec: (len(_batches(spec)) != 1, not spec.free, 0 not in spec.free)):
        if spec.name in axes:
            continue
        axis = _axis(spec, said, called - {""}, others - {""} - called)
        if axis == _UNKNOWN:
            continue
        axes[spec.name] = axis
        if axis is not None:
            called.add(spec.symbol(axis))
        others.update(spec.symbol(other) for other in spec.free if other != axis)
    return axes


_UNKNOWN = -1


def _axis(spec: InputSpec, said: set[str], called: set[str], others: set[str]) -> int | None:
    """Decide where the user has not; _UNKNOWN where he has to.

    Args:
        spec: The input.
        said: What sample axes are called that the user says.
        called: What the sample axes of other inputs are called.
        others: What their other axes are called.
    """
    if not spec.shape:
        return None
    batches = [axis for axis in spec.free if spec.symbol(axis) in said] or _batches(spec)
    if len(batches) == 1:
        return batches[0]
    alike = [axis for axis in spec.free if spec.symbol(axis) in called]
    if 0 in spec.free:
        if spec.symbol(0) not in others:
            return 0
        return alike[0] if len(alike) == 1 else None
    if not spec.free:
        return 0
    if len(spec.free) == 1:
        return 0 if means_length(spec.symbol(spec.free[0])) else spec.free[0]
    if len(alike) == 1:
        return alike[0]
    return 0 if spec.shape[0] == 1 else _UNKNOWN


def _batches(spec: InputSpec) -> list[int]:
    """List the free axes that are called by a word for the batch."""
    may_be_short = 0 not in spec.free or means_length(spec.symbol(0)) or may_mean_batch(spec.symbol(0))
    means = may_mean_batch if may_be_short else means_batch
    return [axis for axis in spec.free if means(spec.symbol(axis))]


def _checked(specs: Sequence[InputSpec], given: SampleAxes) -> dict[str, int | None]:
    """Count axes from the front."""
    by_name = {spec.name: spec for spec in specs}
    axes: dict[str, int | None] = {}
    for name, axis in given.items():
        if name not in by_name:
            raise OptionError(
                f"--sample-axis names '{name}', which is not an input of the model",
                hint=f"the inputs are: {', '.join(by_name)}",
            )
        rank = len(by_name[name].shape)
        if axis is not None and not -rank <= axis < rank:
            described = by_name[name].describe()
            raise OptionError(f"--sample-axis {name}:{axis} is no axis of it", hint=f"'{name}' is {described}")
        axes[name] = None if axis is None else axis % rank
    return axes
