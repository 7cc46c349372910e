"""Graph nodes that bring a tensor of the network to (samples, channels, positions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxpfp.calibrate.sensitivity.device.graph import Graph
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.im2col import output_sizes

__all__ = ["Arrangement", "Extent"]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The nodes that arrange a tensor; families for which they are the same share them.

    Attributes:
        order: Permutation of the axes to (sample, channel, ...), or to (channel, ...) where samples are the positions.
        sample_axis: Axis of the samples before that; None where there is one sample, which has no axis.
        samples_last: Whether samples are the positions.
        plain: Whether an output position sees the input at the same position.
    """

    order: tuple[int, ...]
    sample_axis: int | None
    samples_last: bool
    plain: bool

    @classmethod
    def of(cls, family: OpFamily) -> Arrangement:
        """Find out how the tensor of a family is arranged."""
        lead = family.lead
        rank = len(lead.data_shape)
        sample = (1 if lead.axis == 0 else 0) if rank > 1 else None
        plain = family.flat and all(stride == 1 for stride in lead.attributes.strides or ())
        front = (lead.axis,) if family.samples_last or sample is None else (sample, lead.axis)
        rest = tuple(axis for axis in range(rank) if axis not in front)
        return cls(front + rest, sample, family.samples_last, plain)

    def write(self, graph: Graph, tensor: str) -> str:
        """Append the nodes; the shape `arranged` is an input."""
        return graph.reshape(graph.transpose(tensor, self.order), graph.ints("arranged"))

    def write_part(self, graph: Graph, tensor: str) -> str:
        """Append the nodes for the samples from the input `first` up to the input `last`."""
        if self.sample_axis is not None:
            bounds = [graph.ints("first"), graph.ints("last"), graph.axes(self.sample_axis)]
            tensor = graph.op("Slice", [tensor, *bounds])
        return self.write(graph, tensor)

    def shape(self, channels: int) -> list[int]:
        """Return what is fed as `arranged`."""
        return [1 if self.samples_last else 0, channels, -1]


@dataclass(frozen=True, slots=True)
class Extent:
    """The extent of some samples of a family's tensor.

    Attributes:
        samples: Number of samples.
        maps: Number of maps, N: one for each sample, or one for all.
        samples_last: Whether samples are the positions.
        sizes: Spatial shape of a map of the input.
        spatial: The same of the output.
    """

    samples: int
    maps: int
    samples_last: bool
    sizes: tuple[int, ...]
    spatial: tuple[int, ...]

    @classmethod
    def of(cls, family: OpFamily, arrangement: Arrangement, shape: Sequence[int]) -> Extent:
        """Read it off the shape of a tensor."""
        samples = 1 if arrangement.sample_axis is None else shape[arrangement.sample_axis]
        if arrangement.samples_last:
            return cls(samples, 1, True, (samples,), (samples,))
        sizes = tuple(shape[axis] for axis in arrangement.order[2:])
        return cls(samples, samples, False, sizes, sizes if arrangement.plain else output_sizes(family.lead, sizes))

    def cut(self, samples: int) -> Extent:
        """Return that of a part of the samples."""
        if self.samples_last:
            return replace(self, samples=samples, sizes=(samples,), spatial=(samples,))
        return replace(self, samples=samples, maps=samples)

    @property
    def size(self) -> int:
        """Positions of a map of the input."""
        return math.prod(self.sizes)

    @property
    def positions(self) -> int:
        """Positions of a map of the output."""
        return math.prod(self.spatial)

    @property
    def pairs(self) -> int:
        """Positions of the output of all maps."""
        return self.maps * self.positions
