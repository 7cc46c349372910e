"""MAC terms of ops: which axis lengths multiply to the multiply-adds of a node. The rules of ops declare them."""

from __future__ import annotations

from onnx import NodeProto

from onnxpfp.channels.facts import MacTerm, MacTerms, Ranks
from onnxpfp.model.attributes import Attributes
from onnxpfp.model.equation import expand

__all__ = [
    "attention_terms",
    "convolution_terms",
    "einsum_terms",
    "fused_matrix_terms",
    "gemm_terms",
    "matrix_terms",
    "projected_attention_terms",
    "recurrence_terms",
    "transposed_terms",
]


def _every(name: str, rank: Ranks, first: int = 0) -> MacTerm:
    """All axes of a tensor from `first` on."""
    return [(name, axis) for axis in range(first, rank[name])]


def convolution_terms(filters: int) -> MacTerms:
    """Every output meets one filter, whose axis 0 are the outputs; the filters are the input `filters`."""

    def mac_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
        return [[*_every(node.output[0], rank), *_every(node.input[filters], rank, 1)]]

    return mac_terms


def transposed_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """Every input meets one filter, whose axis 0 are the inputs."""
    return [[*_every(node.input[0], rank), *_every(node.input[1], rank, 1)]]


def gemm_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """Every output is a sum over the inner axis, which `transA` says."""
    inner = 0 if Attributes(node).integer("transA", 0) else 1
    return [[*_every(node.output[0], rank), (node.input[0], inner)]]


def matrix_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """Every output is a sum over the last axis of the first input."""
    x = node.input[0]
    return [[*_every(node.output[0], rank), (x, rank[x] - 1)]]


def fused_matrix_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """As a matrix product; `transA` and `transBatchA` say which axis is the inner one."""
    x, options = node.input[0], Attributes(node)
    inner = rank[x] - 1
    if options.integer("transA", 0) and inner:
        inner = 0 if options.integer("transBatchA", 0) else inner - 1
    return [[*_every(node.output[0], rank), (x, inner)]]


def einsum_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """Every letter once: of the result, or of the operand that has it first."""
    terms, out = expand(Attributes(node).text("equation", ""), [rank[name] for name in node.input])
    axes = {
        letter: (name, axis) for name, term in zip(node.input, terms, strict=True) for axis, letter in enumerate(term)
    }
    axes |= {letter: (node.output[0], axis) for axis, letter in enumerate(out)}
    return [list(axes.values())]


def recurrence_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
    """Every step of every sequence meets all of W and all of R."""
    x, w, r = node.input[:3]
    return [[(x, 0), (x, 1), *_every(weight, rank)] for weight in (w, r)]


def _tokens(node: NodeProto, rank: Ranks, keys: int, past: int) -> list[tuple[str, int]]:
    """The axes of tokens that are attended to: of new keys (N, T, C) or (N, H, T, D), and of a cache."""
    name = node.input[keys] if len(node.input) > keys and node.input[keys] else node.input[0]
    new = (name, 2 if rank[name] == 4 else 1)
    return [new, (node.input[past], 2)] if len(node.input) > past and node.input[past] else [new]


def attention_terms(past: int, *, one_width: bool = False) -> MacTerms:
    """Scores and sums of values: every query, and every output, meets every token.

    Args:
        past: Position of the cached keys.
        one_width: Whether queries are as wide as the output, so that they need no tensor of their own.
    """

    def mac_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
        output = _every(node.output[0], rank)
        queries = output if one_width else _every(node.input[0], rank)
        return [[*side, token] for side in (queries, output) for token in _tokens(node, rank, 1, past)]

    return mac_terms


def projected_attention_terms(past: int) -> MacTerms:
    """The input is projected first; queries are taken to be as wide as values. `past` is the position of the cache."""

    def mac_terms(node: NodeProto, rank: Ranks) -> list[MacTerm]:
        x, w, output = node.input[0], node.input[1], _every(node.output[0], rank)
        cached = [(node.input[past], 3)] if len(node.input) > past and node.input[past] else []
        tokens = [(x, 1), *cached]
        return [[*_every(x, rank), (w, 1)], *([*output, token] for token in (*tokens, *tokens))]

    return mac_terms
