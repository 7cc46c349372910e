"""The nodes that take the place of those that draw random numbers: numbers of a table, picked by the keys of samples.

    draw[n, i] = table[(key of sample n + checksum of the node's output + step of the loop + i) mod P]

The table has P numbers with exactly the quantiles of the distribution, in random order. i is the place within one
sample, and n the number of the sample, where the first axis is a multiple of the number of samples; else the first key
counts for all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import all_graphs, named_subgraphs
from onnxpfp.model.edit import add_constants, replace_nodes
from onnxpfp.model.names import first_output
from onnxpfp.model.opset import standard_opset
from onnxpfp.runtime.draw_keys import DECIDING, FED_BY_US, KEYS, OWN
from onnxpfp.runtime.external_data import externalise

__all__ = ["DRAW_PREFIX", "DrawWriter", "KeptAxes", "KeptAxis", "body_place"]

PRIME = 65521
"""P: as it is prime, channels of fewer numbers than P are never the same numbers at the same places."""
STEP = 7919
"""Distance of the draws of one step of a loop from those of the step before."""
CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own ops; its Range is older than the standard's."""
CASTS_LIKE = 15
"""First opset with CastLike."""
TAKES_ZEROS = 14
"""First opset in which a Reshape can be told that 0 is a length."""
SCANS_WITHOUT_BATCH = 9
"""First opset in which a Scan has no axis of samples of its own."""
DRAW_PREFIX = f"onnxpfp_draw_{OWN}"


@dataclass(frozen=True, slots=True)
class KeptAxis:
    """An axis of a draw that has lost indices.

    Attributes:
        length: Its length in the network that draws everything.
        indices: The indices that are left.
    """

    length: int
    indices: tuple[int, ...]


KeptAxes = tuple[KeptAxis | None, ...]
"""The axes of one draw; None is one that is whole."""


def body_place(node: NodeProto, attribute: str) -> str:
    """Return what stands before the names of outputs in a body, for two branches may call theirs alike."""
    return f"{first_output(node)}/{attribute}/"


@cache
def _table(distribution: str) -> NDArray[np.float32]:
    """Return the quantiles of a distribution in random order, twice, so that sums of two places need no remainder."""
    uniform = (np.random.default_rng(PRIME).permutation(PRIME) + 0.5) / PRIME
    make: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "uniform": lambda u: u,
        "normal": lambda u: np.array([NormalDist().inv_cdf(share) for share in u.tolist()]),
        "gumbel": lambda u: -np.log(-np.log(u)),
    }
    return np.tile(make[distribution](uniform), 2).astype(np.float32)


@dataclass(slots=True, eq=False)
class DrawWriter:
    """Writes the nodes.

    Attributes:
        model: The model, which is changed.
        drawing: Places of the nodes that draw: their first outputs, in bodies behind `body_place`.
        kept: What is left of draws of which channels went, by place.
    """

    model: ModelProto
    drawing: Set[str]
    kept: Mapping[str, KeptAxes]
    _nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    _constants: dict[tuple[Any, ...], TensorProto] = field(default_factory=dict[tuple[Any, ...], TensorProto])
    _stem: str = ""
    _kept: KeptAxes = ()
    _count: int = 0
    _opset: int = field(init=False)
    _types: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        self._opset = standard_opset(self.model)

    def write(self) -> None:
        """Put other nodes in the place of all that draw, and add what they read."""
        self._rewrite(self.model.graph, ())
        weights = {tensor.name for tensor in self.model.graph.initializer}
        names = [info.name for info in self.model.graph.input if info.name not in weights]
        deciding = [name for name in names if not name.startswith(FED_BY_US)]
        self.model.metadata_props.add(key=DECIDING, value=json.dumps(deciding))
        self.model.graph.input.append(helper.make_tensor_value_info(KEYS, TensorProto.INT64, [None]))
        add_constants(self.model, list(self._constants.values()))
        if all(entry.domain != CONTRIB for entry in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(CONTRIB, 1))

    def _rewrite(self, graph: GraphProto, steps: tuple[str, ...], within: str = "") -> None:
        """Rewrite a graph at a place within loops whose numbers of steps have these names."""
        nodes: list[NodeProto] = []
        for node in graph.node:
            places = [(body_place(node, attribute), body) for attribute, body in named_subgraphs(node)]
            for place, body in places:
                self._rewrite(body, (*steps, *self._counter(node, body, within + place)), within + place)
            self._nodes = []
            if node.output and within + node.output[0] in self.drawing:
                self._kept = self.kept.get(within + node.output[0], ())
                self._stem, self._count = f"{DRAW_PREFIX}_{node.output[0]}", 0
                self._replace(node, steps)
            nodes += self._nodes or [node]
        replace_nodes(graph, nodes)

    def _counter(self, node: NodeProto, body: GraphProto, place: str) -> list[str]:
        """Return the name of the number of the step in the body of a loop; a Scan gets one as its first state."""
        if node.op_type == "Loop":
            return [body.input[0].name]
        draws = any(drawn.startswith(place) for drawn in self.drawing)
        if node.op_type != "Scan" or self._opset < SCANS_WITHOUT_BATCH or not draws:
            return []
        step, following, last = (f"{DRAW_PREFIX}_{node.output[0]}_{which}" for which in ("step", "following", "last"))
        node.input.insert(0, self._number(np.int64(0)))
        node.output.insert(0, last)
        for infos, name in ((body.input, step), (body.output, following)):
            infos.insert(0, helper.make_tensor_value_info(name, TensorProto.INT64, []))
        body.node.append(helper.make_node("Add", [step, self._number(np.int64(1))], [following]))
        return [step]

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._stem}_{self._count}"

    def _number(self, value: Any) -> str:
        """Return the name of a constant."""
        array = np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"{DRAW_PREFIX}_constant_{len(self._constants)}")
        return self._constants[key].name

    def _op(self, kind: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        output = output or self._fresh()
        self._nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def _replace(self, node: NodeProto, steps: Sequence[str]) -> None:
        """Write what takes the place of a node."""
        if node.op_type == "Dropout":
            self._drop_out(node, steps)
        elif node.op_type == "Multinomial":
            self._choose(node, steps)
        else:
            self._fill(node, steps)

    def _fill(self, node: NodeProto, steps: Sequence[str]) -> None:
        """Write an op that fills a tensor: RandomNormal, RandomUniform, those like another tensor, and Bernoulli."""
        attributes, op = Attributes(node), node.op_type
        shape = (
            self._op("Shape", node.input[0]) if node.input else self._whole_numbers(*attributes.integers("shape") or ())
        )
        drawn = self._draw("normal" if op.startswith("RandomNormal") else "uniform", node, shape, steps)
        if op == "Bernoulli":
            # The probabilities are compared under their own name where they can be: who knows ties finds them by it.
            given = node.input[0]
            single = self._element_type(given) == TensorProto.FLOAT
            value = self._op("Less", drawn, given if single else self._op("Cast", given, to=TensorProto.FLOAT))
        elif op.startswith("RandomNormal"):
            value = self._affine(drawn, attributes.real("scale", 1.0), attributes.real("mean", 0.0))
        else:
            low = attributes.real("low", 0.0)
            value = self._affine(drawn, attributes.real("high", 1.0) - low, low)
        if "dtype" in attributes or not node.input:
            self._op("Cast", value, output=node.output[0], to=attributes.integer("dtype", TensorProto.FLOAT))
        else:
            self._like(value, node.input[0], node.output[0])

    def _affine(self, value: str, factor: float, shift: float) -> str:
        scaled = self._op("Mul", value, self._number(np.float32(factor)))
        return self._op("Add", scaled, self._number(np.float32(shift)))

    def _drop_out(self, node: NodeProto, steps: Sequence[str]) -> None:
        """Write Dropout: x / (1 - ratio) where a uniform number is at least the ratio, else 0; x where it is off."""
        x, ratio, training = node.input[:3]
        switch = self._op("Cast", training, to=TensorProto.FLOAT)
        given = self._op("Cast", ratio, to=TensorProto.FLOAT) if ratio else self._number(np.float32(0.5))
        share = self._op("Mul", given, switch)
        below = self._op("Less", self._draw("uniform", node, self._op("Shape", x), steps), share)
        stays = self._op("Not", below, output="".join(node.output[1:2]))
        one = self._number(np.float32(1))
        gain = self._op("Div", one, self._op("Sub", one, share))
        factor = self._op("Mul", self._op("Cast", stays, to=TensorProto.FLOAT), gain)
        self._op("Mul", x, self._like(factor, x), output=node.output[0])

    def _choose(self, node: NodeProto, steps: Sequence[str]) -> None:
        """Write Multinomial: the largest of log probabilities plus Gumbel noise (Gumbel, 1954)."""
        attributes = Attributes(node)
        logits = self._op("Cast", node.input[0], to=TensorProto.FLOAT)
        shape = self._op("Shape", logits)
        rows, classes = (self._op("Gather", shape, self._whole_numbers(axis)) for axis in (0, 1))
        count = self._whole_numbers(attributes.integer("sample_size", 1))
        noise = self._draw("gumbel", node, self._op("Concat", rows, count, classes, axis=0), steps)
        spread = self._op("Reshape", logits, self._op("Concat", rows, self._whole_numbers(1), classes, axis=0))
        chosen = self._op("ArgMax", self._op("Add", spread, noise), axis=2, keepdims=0)
        self._op("Cast", chosen, output=node.output[0], to=attributes.integer("dtype", TensorProto.INT32))

    def _draw(self, distribution: str, node: NodeProto, shape: str, steps: Sequence[str]) -> str:
        """Write a draw for the first output of a node, float32.

        Args:
            distribution: Of which table.
            node: The node.
            shape: Tensor of the lengths of the draw.
            steps: Numbers of the steps of the loops around it.
        """
        kept = self._kept
        whole = self._before_cuts(shape, kept)
        samples, per_sample = self._by_sample(whole)
        offset = self._op("Gather", KEYS, self._range(samples))
        checksum = self._whole_numbers(zlib.crc32(node.output[0].encode()))
        for added in (checksum, *(self._op("Mul", step, self._whole_numbers(STEP)) for step in steps)):
            offset = self._op("Add", offset, self._op("Reshape", added, self._whole_numbers(1)))
        offsets = self._op("Reshape", self._remainder(offset, PRIME), self._whole_numbers(-1, 1))
        places = self._op("Add", offsets, self._remainder(self._range(per_sample), PRIME))
        zeros: dict[str, Any] = {"allowzero": 1} if self._opset >= TAKES_ZEROS else {}
        drawn = self._op("Reshape", self._op("Gather", self._number(_table(distribution)), places), whole, **zeros)
        for axis, part in enumerate(kept):
            if part is not None:
                indices = self._whole_numbers(*part.indices)
                drawn = self._op("Gather", drawn, indices, axis=axis, output=f"{self._stem}_cut_{axis}")
        return drawn

    def _before_cuts(self, shape: str, kept: KeptAxes) -> str:
        """Return the lengths of a draw before indices went."""
        if not kept:
            return shape
        same = self._whole_numbers(*(int(part is None) for part in kept))
        added = self._whole_numbers(*(0 if part is None else part.length for part in kept))
        # Names of their own, so that the others are the same in every copy of the network.
        lengths = self._op("Mul", shape, same, output=f"{self._stem}_same")
        return self._op("Add", lengths, added, output=f"{self._stem}_whole")

    def _by_sample(self, shape: str) -> tuple[str, str]:
        """Return how many samples have numbers of their own in a draw, and how many each: two tensors (1,)."""
        one = self._whole_numbers(1)
        lengths = self._op("Concat", shape, one, axis=0)
        samples = self._op("Shape", KEYS)
        first = self._op("Gather", lengths, self._whole_numbers(0))
        # 1 where a multiple is reached, else 0. A remainder is not asked for: onnxruntime takes (1 / n) n for n / n.
        below = self._op("Div", self._op("Sub", first, one), samples)
        apart = self._op("Sub", self._op("Div", first, samples), below)
        several = self._op("Add", one, self._op("Mul", apart, self._op("Sub", samples, one)))
        total = self._op("ReduceProd", lengths, keepdims=1)
        return several, self._op("Div", total, several)

    def _range(self, count: str) -> str:
        """Return the whole numbers below one, which is a tensor (1,)."""
        zero, one = self._number(np.int64(0)), self._number(np.int64(1))
        return self._op("Range", zero, self._op("Gather", count, zero), one, domain=CONTRIB)

    def _remainder(self, numbers: str, divisor: int) -> str:
        """Return what a division leaves; Mod is younger than the ops that draw."""
        by = self._whole_numbers(divisor)
        return self._op("Sub", numbers, self._op("Mul", self._op("Div", numbers, by), by))

    def _whole_numbers(self, *values: int) -> str:
        return self._number(np.array(values, np.int64))

    def _like(self, value: str, other: str, output: str = "") -> str:
        """Return a value in the type of another."""
        if self._opset >= CASTS_LIKE:
            return self._op("CastLike", value, other, output=output)
        return self._op("Cast", value, output=output, to=self._element_type(other) or TensorProto.FLOAT)

    def _element_type(self, name: str) -> int:
        """Return the element type of a tensor; 0 where it cannot be inferred."""
        if self._types is None:
            self._types = _element_types(self.model)
        return self._types.get(name, TensorProto.UNDEFINED)


def _element_types(model: ModelProto) -> dict[str, int]:
    """Return the element types of tensors, as far as they can be inferred."""
    try:
        inferred = onnx.shape_inference.infer_shapes(externalise(model)[0])
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        inferred = model
    types: dict[str, int] = {}
    for graph in all_graphs(inferred):
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        types |= {
            info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.value_info, *graph.output)
        }
    return types
