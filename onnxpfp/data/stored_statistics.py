"""What a trained network remembers of its inputs: the statistics of its first BatchNormalizations.

They are the mean m and the variance v of every channel, as training saw them. Of samples with mean a and variance b
there the distance is the Kullback-Leibler divergence of two normal distributions,

    ((b + eps) / (v + eps) + (a - m)^2 / (v + eps) - 1 - log((b + eps) / (v + eps))) / 2,

in nats, averaged over the channels. Samples like those of training are near (docs/data.md has the measurements); pixels
in another range are not. A network whose BatchNormalizations are folded remembers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from onnxpfp.arrays import Floats
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import Constants, outer_names
from onnxpfp.model.edit import forget_records
from onnxpfp.runtime.session import open_session

__all__ = ["FAR", "LEAST_TO_TELL", "MOST_TO_TELL", "StoredStatistics"]

FAR = 0.4
"""Nats. Of 8 samples like those of training the distance was 0.17 at most in 150 draws for five networks; with pixels
in 0 to 1 where mean and deviation were to be 0 and 1 it was 0.58 or more."""
LEAST_TO_TELL = 8
"""Fewer have means of their own."""
MOST_TO_TELL = 64
"""More change little."""
_EPSILON = 1e-5
"""The default of the op."""
_DATA, _MEAN, _VARIANCE = 0, 3, 4


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """What one BatchNormalization stores: means and variances by channel, eps added to these, (C,) each."""

    name: str
    mean: Floats
    variance: Floats
    epsilon: float

    def distance(self, values: _Values) -> float:
        """Return how far values are from it, in nats."""
        with np.errstate(all="ignore"):
            spread = (values.variance + self.epsilon) / self.variance
            shift = np.square(values.mean - self.mean) / self.variance
            return float((spread + shift - 1 - np.log(spread)).mean()) / 2


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """Means and variances of values by channel, (C,) each, and how many a channel has.

    They are merged sample by sample: all values at once, in float64, would take several times what a batch takes.
    """

    count: int
    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Measure those of one sample, (C, ...)."""
        rows: Floats = values.reshape(len(values), -1).astype(np.float64)
        return cls(rows.shape[1], rows.mean(1), rows.var(1))

    def merge(self, other: Self) -> Self:
        """Combine with those of another sample; sizes may differ from sample to sample, channels do not."""
        share = other.count / max(self.count + other.count, 1)
        gap = other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * np.square(gap)
        return type(self)(self.count + other.count, self.mean + share * gap, variance)


@dataclass(frozen=True, slots=True, eq=False)
class StoredStatistics:
    """The statistics of those BatchNormalizations that have no other one before them.

    Attributes:
        model: What is run: the network as far as they read it.
        stored: What they store, by the tensor that they read.
    """

    model: ModelProto
    stored: Mapping[str, _Stored]

    @classmethod
    def of(cls, model: ModelProto) -> StoredStatistics | None:
        """Find them; None where the file has none, or none that were trained."""
        if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
            return None
        constants = Constants.of(model)
        inputs = {info.name for info in model.graph.input} - set(constants.names)
        stored = {node.input[_DATA]: _stored(node, constants) for node in _first(model)}
        known = {name: each for name, each in stored.items() if each is not None}
        if not known:
            return None
        return cls(_part(model, [name for name in known if name not in inputs]), known)

    def distance(self, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[float, str]:
        """Return how far samples are from them, and the name of the op where that is most.

        Args:
            feeds: What is fed, run by run.

        Raises:
            ModelError: The network does not run on them.
        """
        session = open_session(self.model, shared=True) if self.model.graph.output else None
        values: dict[str, _Values] = {}
        for feed in feeds:
            tensors = {**feed, **(session.run(feed) if session is not None else {})}
            with np.errstate(all="ignore"):
                for name in self.stored:
                    for one in (_Values.of(sample) for sample in tensors[name] if sample.size):
                        values[name] = values[name].merge(one) if name in values else one
        found = [(self.stored[name].distance(each), self.stored[name].name) for name, each in values.items()]
        # What is not finite is as far as can be.
        far = ((math.inf if math.isnan(distance) else distance, name) for distance, name in found)
        return max(far, default=(0.0, ""))


def _part(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return what makes some tensors, with the weights that this reads."""
    wanted, nodes = set(names), list[NodeProto]()
    for node in reversed(model.graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input, outer_names(node))
            nodes.append(node)
    graph = model.graph
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.input.extend(graph.input)
    part.graph.output.extend(ValueInfoProto(name=name) for name in names)
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in wanted)
    part.graph.sparse_initializer.extend(graph.sparse_initializer)
    return forget_records(part)


def _first(model: ModelProto) -> Iterable[NodeProto]:
    """Yield the BatchNormalizations of the main graph that have no other one before them."""
    behind = set[str]()
    for node in model.graph.node:
        later = not behind.isdisjoint({*node.input, *outer_names(node)})
        if node.op_type == "BatchNormalization" and not later:
            yield node
        if node.op_type == "BatchNormalization" or later:
            behind.update(name for name in node.output if name)


def _stored(node: NodeProto, constants: Constants) -> _Stored | None:
    """Read what one stores; None where it is computed, or what an untrained one has."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if attributes.get("training_mode", 0) or not {node.input[_MEAN], node.input[_VARIANCE]} <= set(constants.names):
        return None
    epsilon = float(attributes.get("epsilon", _EPSILON))
    try:
        mean, variance = (constants.value(node.input[at]).astype(np.float64) for at in (_MEAN, _VARIANCE))
    except ModelError:
        return None
    if not mean.any() and (variance == 1).all():
        return None
    return _Stored(node.name or node.output[0], mean, variance + epsilon, epsilon)
