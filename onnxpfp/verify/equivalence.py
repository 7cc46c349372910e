"""The oracle: masked original == pruned, and how closely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxpfp.arrays import Arrays
from onnxpfp.channels.ops import facts_of
from onnxpfp.errors import ModelError, VerificationError
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.edit import drop_unread, forget_records
from onnxpfp.model.shapes import Shapes
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session, open_session

__all__ = ["FLOAT32", "HALF", "Equivalence", "check_equivalence", "tolerance"]


FLOAT32 = 1e-4
HALF = 2e-2
QUANTIZED = 5e-2
HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
NOISE_FACTOR = 10
"""A network that amplifies rounding is allowed so many times what a little rounding does: every layer rounds."""
NOISE_LIMIT = 5e-2
"""What no amplification excuses: a wrong channel shows as 0.1 and more."""
ULP = 2.0**-23
FLIPS = 0.01
"""Largest share of integer outputs that may differ: near ties, another order of sums decides."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The distance of the pruned model from the original with the removed channels masked.

    Attributes:
        error: Largest |masked - pruned| over the largest |masked|, of all outputs and runs.
        tolerance: What was allowed.
        runs: How many sets of inputs were compared.
        blank: Whether all that was compared was zero, so that nothing was shown.
    """

    error: float
    tolerance: float
    runs: int
    blank: bool


def _quantizes(node: NodeProto) -> bool:
    """Whether a node rounds activations to integers."""
    op = node.op_type
    return ("Quantize" in op and op != "DequantizeLinear") or op.startswith(("QLinear", "QGemm", "QAttention"))


def tolerance(model: ModelProto, shapes: Shapes) -> float:
    """Return what the oracle allows, by the coarsest numbers that the model computes with.

    Sums in another order differ by rounding: float32 by 1e-4 of the largest output at most, half
    precision by 2e-2; a quantized activation can flip by one step, 1/128 of its range, per layer.
    """
    if any(_quantizes(node) for node in model.graph.node):
        return QUANTIZED
    types = set(shapes.dtype.values())
    if types & HALVES:
        return HALF
    return FLOAT32


def _difference(
    name: str, one: NDArray[np.generic], two: NDArray[np.generic], floor: float = 0.0, flips: float = 0.0
) -> float:
    """Largest difference over the largest value (or `floor`, if that is larger); integers may differ by FLIPS.

    A share of `flips` of the numbers does not count.
    """
    if one.shape != two.shape:
        raise VerificationError(
            f"the output '{name}' has shape {list(two.shape)} in the pruned model, {list(one.shape)} "
            "in the masked original"
        )
    if not one.size:
        return 0.0
    if one.dtype.kind not in "fV":
        return 0.0 if np.count_nonzero(np.not_equal(one, two)) / one.size <= FLIPS else math.inf
    a, b = one.astype(np.float64), two.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = np.abs(a[np.isfinite(a)]).max(initial=floor)
    gaps = np.abs(a[~same] - b[~same])
    counted = gaps.size - int(flips * a.size)
    gap = np.partition(gaps, counted - 1)[counted - 1] if counted > 0 else 0.0
    return float(gap / max(scale, np.finfo(np.float32).tiny)) if np.isfinite(gap) else math.inf


def _open(what: str, model: ModelProto, providers: Sequence[ProviderRequest], threads: int | None) -> Session:
    try:
        return open_session(model, providers, threads=threads, optimize=False)
    except ModelError as error:
        raise VerificationError(f"{what} does not load: {error}") from error


def _rounding_noise(session: Session, optimized: Session, feed: Arrays, watched: Mapping[str, float]) -> float:
    """Measure how far rounding moves a model's outputs.

    Two kinds: its inputs move by one rounding of float32, and onnxruntime fuses and reorders its ops.
    """
    rng = np.random.default_rng(0)
    # What is drawn at random stays.
    feed = session.keyed(feed)
    moved = {
        # A product of a number without axes is no array any more.
        name: np.asarray(array * (1 + rng.choice([-ULP, ULP], array.shape)), array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feed.items()
    }
    wanted = session.run(feed)
    others = (session.run(moved), optimized.run(feed))
    gaps = (_difference(name, wanted[name], other[name], watched[name]) for other in others for name in wanted)
    return max(gaps, default=0.0)


def _watched(model: ModelProto) -> dict[str, float]:
    """Return what is compared, and the least value that its differences are measured against.

    Beside the outputs these are the tensors that saturating ops make them from: a sigmoid that is 0 everywhere
    would hide a wrong channel. Such an op rounds to a share of 1, however small its result is.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    watched: dict[str, float] = {}
    names = [output.name for output in model.graph.output]
    while names:
        name = names.pop()
        node = producer.get(name)
        watched[name] = 1.0 if node is not None and facts_of(node).within_one else 0.0
        if node is not None and facts_of(node).saturates and node.input[0] not in watched:
            names.append(node.input[0])
    return watched


def _exposing(model: ModelProto, watched: Mapping[str, float]) -> ModelProto:
    """Copy a model with the watched tensors among its outputs."""
    present = {output.name for output in model.graph.output}
    exposed = ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in watched if name not in present)
    return forget_records(exposed)


def _without_steps(model: ModelProto) -> ModelProto:
    """Let activations pass by QuantizeLinear and DequantizeLinear: what is left has no steps that could flip."""
    smooth = ModelProto()
    smooth.CopyFrom(model)
    before = {node.output[0]: node.input[0] for node in smooth.graph.node if node.op_type == "QuantizeLinear"}
    pairs = (node for node in smooth.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in before)
    passed = {node.output[0]: before[node.input[0]] for node in pairs}
    for node in smooth.graph.node:
        node.input[:] = [_first(passed, name) for name in node.input]
    results = {output.name for output in smooth.graph.output} & passed.keys()
    for node in smooth.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in results:
            node.CopyFrom(helper.make_node("Identity", [_first(passed, node.output[0])], list(node.output)))
    unread = [name for node in smooth.graph.node if node.output and node.output[0] in passed for name in node.output]
    drop_unread(smooth.graph, unread)
    return smooth


def _first(passed: Mapping[str, str], name: str) -> str:
    while name in passed:
        name = passed[name]
    return name


def check_equivalence(
    masked: ModelProto,
    pruned: ModelProto,
    feeds: Sequence[Arrays],
    *,
    allowed: float,
    providers: Sequence[ProviderRequest],
    threads: int | None,
    trials: Sequence[Arrays] = (),
) -> Equivalence:
    """Hold the pruned model against the masked original: they are one function.

    They are so at `trials` too, inputs of other sizes, as far as the masked original takes them.

    Where activations are quantized, near ties fall to other steps, and steps add up over layers: FLIPS of the numbers
    may differ by more than `allowed`. So models that can be are also held against each other without those steps.

    Raises:
        VerificationError: They differ by more than `allowed`, or the pruned model does not run.
    """
    masked, pruned = with_fixed_draws(masked), with_fixed_draws(pruned)
    hold = partial(_hold, feeds=feeds, trials=trials, providers=providers, threads=threads)
    if not any(map(_quantizes, masked.graph.node)):
        return hold(masked, pruned, allowed=allowed)
    one, two = _without_steps(masked), _without_steps(pruned)
    if not any(map(_quantizes, (*one.graph.node, *two.graph.node))):
        half = any(tensor.data_type in HALVES for tensor in masked.graph.initializer)
        hold(one, two, allowed=HALF if half else FLOAT32)
    return hold(masked, pruned, allowed=allowed, flips=FLIPS)


def _answers(session: Session, feeds: Sequence[Arrays], trials: Sequence[Arrays]) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield inputs and outputs: of all `feeds`, and of those `trials` that the model takes."""
    for feed in feeds:
        yield feed, session.run(feed)
    for feed in trials:
        try:
            outputs = session.run(feed)
        except ModelError:
            continue
        yield feed, outputs


def _hold(
    masked: ModelProto,
    pruned: ModelProto,
    feeds: Sequence[Arrays],
    trials: Sequence[Arrays],
    *,
    allowed: float,
    providers: Sequence[ProviderRequest],
    threads: int | None,
    flips: float = 0.0,
) -> Equivalence:
    watched = _watched(masked)
    one = _open("the masked original", _exposing(masked, watched), providers, threads)
    two = _open("the pruned model", _exposing(pruned, watched), providers, threads)
    error, worst, blank = 0.0, "", True
    runs = 0
    for feed, wanted in _answers(one, feeds, trials):
        runs += 1
        try:
            outputs = two.run(feed)
        except ModelError as failure:
            raise VerificationError(f"the pruned model does not run: {failure}") from failure
        for name, value in wanted.items():
            blank = blank and not np.any(value)
            gap = _difference(name, value, outputs[name], floor=watched[name], flips=flips)
            if gap > error:
                error, worst = gap, name
    if not error <= allowed:
        other = open_session(_exposing(masked, watched), providers, threads=threads)
        noise = max(_rounding_noise(one, other, feed, watched) for feed in feeds)
        allowed = max(allowed, min(NOISE_FACTOR * noise, NOISE_LIMIT))
    if not error <= allowed:
        raise VerificationError(
            f"the pruned model is not the masked original: the output '{worst}' differs by "
            f"{error:.1e} of its largest value, {allowed:.0e} is allowed",
            hint="please report it with the model: a fault of onnxpfp, or rounding that this network amplifies",
        )
    return Equivalence(error, allowed, runs, blank)
