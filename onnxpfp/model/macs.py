"""Parameters and MACs of a file as it is.

One fused multiply-add of an op in `PRODUCTS` is one MAC; everything else is none. How often the subgraphs of If, Loop
and Scan run is not known, so nothing in them is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from onnx import ModelProto, NodeProto

from onnxpfp.model.attributes import Attributes
from onnxpfp.model.constants import stored_tensors, weight_names
from onnxpfp.model.equation import expand
from onnxpfp.model.shapes import Shapes

__all__ = ["Factors", "count_macs", "count_params", "mac_factors", "mac_nodes"]

Factors = list[tuple[str, int]]
"""Axes (tensor, axis) whose lengths multiply to the MACs of one product."""
Ranks = Mapping[str, int]
"""Number of axes of every dense tensor."""
Products = Callable[[NodeProto, Ranks], list[Factors]]
"""All products of a node."""


def count_params(model: ModelProto) -> int:
    """Count the stored numbers of all weights (shape arithmetic is none)."""
    stored = stored_tensors(model.graph)
    return sum(math.prod(stored[name].dims) for name in weight_names(model.graph))


def _every(name: str, rank: Ranks, first: int = 0) -> Factors:
    """All axes of a tensor from `first` on."""
    return [(name, axis) for axis in range(first, rank[name])]


def _convolution(filters: int) -> Products:
    """Every output meets one filter, whose axis 0 are the outputs; the filters are the input `filters`."""

    def products(node: NodeProto, rank: Ranks) -> list[Factors]:
        return [[*_every(node.output[0], rank), *_every(node.input[filters], rank, 1)]]

    return products


def _transposed(node: NodeProto, rank: Ranks) -> list[Factors]:
    """Every input meets one filter, whose axis 0 are the inputs."""
    return [[*_every(node.input[0], rank), *_every(node.input[1], rank, 1)]]


def _gemm(node: NodeProto, rank: Ranks) -> list[Factors]:
    inner = 0 if Attributes(node).integer("transA", 0) else 1
    return [[*_every(node.output[0], rank), (node.input[0], inner)]]


def _matrix(node: NodeProto, rank: Ranks) -> list[Factors]:
    """Every output is a sum over the last axis of the first input."""
    x = node.input[0]
    return [[*_every(node.output[0], rank), (x, rank[x] - 1)]]


def _fused_matrix(node: NodeProto, rank: Ranks) -> list[Factors]:
    """As a matrix product; `transA` and `transBatchA` say which axis is the inner one."""
    x, options = node.input[0], Attributes(node)
    inner = rank[x] - 1
    if options.integer("transA", 0) and inner:
        inner = 0 if options.integer("transBatchA", 0) else inner - 1
    return [[*_every(node.output[0], rank), (x, inner)]]


def _einsum(node: NodeProto, rank: Ranks) -> list[Factors]:
    """Every letter once: of the result, or of the operand that has it first."""
    terms, out = expand(Attributes(node).text("equation", ""), [rank[name] for name in node.input])
    places = {
        letter: (name, axis) for name, term in zip(node.input, terms, strict=True) for axis, letter in enumerate(term)
    }
    places |= {letter: (node.output[0], axis) for axis, letter in enumerate(out)}
    return [list(places.values())]


def _recurrence(node: NodeProto, rank: Ranks) -> list[Factors]:
    """Every step of every sequence meets all of W and all of R."""
    x, w, r = node.input[:3]
    return [[(x, 0), (x, 1), *_every(weight, rank)] for weight in (w, r)]


def _tokens(node: NodeProto, rank: Ranks, keys: int, past: int) -> list[tuple[str, int]]:
    """The axes of tokens that are attended to: of new keys (N, T, C) or (N, H, T, D), and of a cache."""
    name = node.input[keys] if len(node.input) > keys and node.input[keys] else node.input[0]
    new = (name, 2 if rank[name] == 4 else 1)
    return [new, (node.input[past], 2)] if len(node.input) > past and node.input[past] else [new]


def _attention(past: int, *, one_width: bool = False) -> Products:
    """Scores and sums of values: every query, and every output, meets every token.

    Args:
        past: Position of the cached keys.
        one_width: Whether queries are as wide as the output, so that they need no tensor of their own.
    """

    def products(node: NodeProto, rank: Ranks) -> list[Factors]:
        output = _every(node.output[0], rank)
        queries = output if one_width else _every(node.input[0], rank)
        return [[*side, token] for side in (queries, output) for token in _tokens(node, rank, 1, past)]

    return products


def _projected_attention(past: int) -> Products:
    """The input is projected first; queries are taken to be as wide as values. `past` is the position of the cache."""

    def products(node: NodeProto, rank: Ranks) -> list[Factors]:
        x, w, output = node.input[0], node.input[1], _every(node.output[0], rank)
        cached = [(node.input[past], 3)] if len(node.input) > past and node.input[past] else []
        tokens = [(x, 1), *cached]
        return [[*_every(x, rank), (w, 1)], *([*output, token] for token in (*tokens, *tokens))]

    return products


PRODUCTS: Mapping[str, Products] = {
    "Attention": _attention(4),
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed,
    "DeformConv": _convolution(1),
    "Einsum": _einsum,
    "GRU": _recurrence,
    "Gemm": _gemm,
    "LSTM": _recurrence,
    "MatMul": _matrix,
    "MatMulInteger": _matrix,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _matrix,
    "RNN": _recurrence,
    "com.microsoft:Attention": _projected_attention(4),
    "com.microsoft:DynamicQuantizeMatMul": _matrix,
    "com.microsoft:FusedConv": _convolution(1),
    "com.microsoft:FusedGemm": _gemm,
    "com.microsoft:FusedMatMul": _fused_matrix,
    "com.microsoft:GroupQueryAttention": _attention(3, one_width=True),
    "com.microsoft:MatMulIntegerToFloat": _matrix,
    "com.microsoft:MatMulNBits": _matrix,
    "com.microsoft:MultiHeadAttention": _attention(6),
    "com.microsoft:QAttention": _projected_attention(8),
    "com.microsoft:QGemm": _gemm,
    "com.microsoft:QLinearConv": _convolution(3),
    "com.microsoft:TransposeMatMul": _fused_matrix,
    "com.microsoft.nchwc:Conv": _convolution(1),
}
"""The products of every op that multiplies and adds, by op type (domain and colon before those not of ONNX)."""


def mac_nodes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[NodeProto, Factors]]:
    """Yield every product with the node that computes it; a node can have several."""
    rank = {name: len(shape) for name, shape in shapes.items()}
    for node in model.graph.node:
        products = PRODUCTS.get(node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}:{node.op_type}")
        for factors in products(node, rank) if products is not None else ():
            yield node, factors


def mac_factors(model: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Factors]:
    """Yield the factors of every product."""
    return (factors for _, factors in mac_nodes(model, shapes))


def count_macs(model: ModelProto, shapes: Shapes, samples: int = 1) -> int:
    """Count the multiply-adds for one sample.

    Args:
        model: The model.
        shapes: Shapes of its tensors at one run.
        samples: How many samples a run takes: 1, but for a model with a fixed batch.
    """
    products = (math.prod(shapes.shape[name][axis] for name, axis in f) for f in mac_factors(model, shapes.shape))
    return sum(products) // samples
