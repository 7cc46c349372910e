"""The oracle: masked original == pruned, and how closely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NotRequired, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxpfp.arrays import AnyArray, Arrays, Bools, Floats
from onnxpfp.comparison.inside import InnerDecision, showing_inside
from onnxpfp.comparison.pair import ModelPair, check_results, run_on
from onnxpfp.comparison.steps import quantizes, without_steps
from onnxpfp.errors import ModelError, VerificationError
from onnxpfp.model.draws import drawn_output, with_fixed_draws
from onnxpfp.model.shapes import Shapes
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session, SessionSource, open_session

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
FILL = 10
"""How far a number that fills hidden places is beyond all others, at least."""
FLIPS = 0.01
"""Largest share of the numbers that may fall to another step where activations are quantized, or where something
decides inside of a subgraph with weights: near ties, another order of sums decides."""


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


def tolerance(model: ModelProto, shapes: Shapes) -> float:
    """Return what the oracle allows, by the coarsest numbers that the model computes with.

    Sums in another order differ by rounding: float32 by 1e-4 of the largest output at most, half
    precision by 2e-2; a quantized activation can flip by one step, 1/128 of its range, per layer.
    """
    if any(quantizes(node) for node in model.graph.node):
        return QUANTIZED
    types = set(shapes.dtype.values())
    if types & HALVES:
        return HALF
    return FLOAT32


def _largest(values: Floats, same: Bools) -> float:
    """Return the largest magnitude, without a number that fills places, as -1e9 does where a mask hides a score.

    Such a number is the same in both models, stands there more than once, and is far beyond all others.

    Args:
        values: The numbers.
        same: Which of them the other model has too.
    """
    magnitudes = np.where(np.isfinite(values), np.abs(values), 0.0)
    largest = float(magnitudes.max(initial=0.0))
    fill = magnitudes == largest
    if np.count_nonzero(fill) <= 1 or not same[fill].all():
        return largest
    rest = float(magnitudes[~fill].max(initial=0.0))
    return rest if 0 < FILL * rest < largest else largest


def _difference(
    name: str, one: NDArray[np.generic], two: NDArray[np.generic], floor: float = 0.0, flips: float = 0.0
) -> float:
    """Largest difference over the largest value (or `floor`, if that is larger); whole numbers are equal or are not.

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
        return 0.0 if np.count_nonzero(np.not_equal(one, two)) / one.size <= flips else math.inf
    a, b = one.astype(np.float64), two.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = max(_largest(a, same), floor)
    gaps = np.abs(a[~same] - b[~same])
    spared = int(flips * a.size)
    if not spared:
        gap = gaps.max()
    else:
        counted = gaps.size - spared
        gap = np.partition(gaps, counted - 1)[counted - 1] if counted > 0 else 0.0
    return float(gap / max(scale, np.finfo(np.float32).tiny)) if np.isfinite(gap) else math.inf


def _open(what: str, model: SessionSource, providers: Sequence[ProviderRequest], threads: int | None) -> Session:
    try:
        return open_session(model, providers, threads=threads, optimize=False, shared=True)
    except ModelError as error:
        raise VerificationError(f"{what} does not load: {error}") from error


def _rounding_noise(
    plain: Session, fixed: Session, optimized: Session, feed: Arrays, pair: ModelPair
) -> dict[str, float]:
    """Measure how far rounding moves what is compared of a model, by tensor.

    Two kinds: its inputs move by one rounding of float32, and onnxruntime fuses and reorders its ops.

    Args:
        plain: The model.
        fixed: The same, deciding on given numbers.
        optimized: That, as onnxruntime likes it best.
        feed: The inputs.
        pair: What is compared.
    """
    rng = np.random.default_rng(0)
    # What is drawn at random stays.
    feed = plain.keyed(feed)
    moved = {
        # A product of a number without axes is no array any more.
        name: np.asarray(array * (1 + rng.choice([-ULP, ULP], array.shape)), array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in feed.items()
    }
    wanted = plain.run(feed)
    given = pair.given(wanted)
    others = (run_on(fixed, moved, given), run_on(optimized, feed, given))
    floats = [name for name, value in wanted.items() if value.dtype.kind in "fV"]
    return {
        name: max(_difference(name, wanted[name], other[name], pair.watched[name]) for other in others)
        for name in floats
    }


def _limits(pair: ModelPair, noises: Sequence[dict[str, float]], allowed: float) -> dict[str, float]:
    """Return what is allowed where a network amplifies rounding: one limit for its outputs, else one by tensor."""
    noise = {name: max(each.get(name, 0.0) for each in noises) for name in pair.watched}
    largest = max((noise[name] for name in pair.shown if name in noise), default=0.0)
    noise |= dict.fromkeys(pair.shown & noise.keys(), largest)
    return {name: max(allowed, min(NOISE_FACTOR * each, NOISE_LIMIT)) for name, each in noise.items()}


def check_equivalence(
    masked: ModelProto,
    pruned: ModelProto,
    feeds: Sequence[Arrays],
    *,
    allowed: float,
    providers: Sequence[ProviderRequest],
    threads: int | None,
    trials: Sequence[Arrays] = (),
    kept: Callable[[str, AnyArray], AnyArray] | None = None,
) -> Equivalence:
    """Hold the pruned model against the masked original: they are one function.

    They are so at `trials` too, inputs of other sizes, as far as the masked original takes them. What they decide on
    is compared as numbers, and the pruned model decides on those of the masked original
    (`onnxpfp.comparison.decisions`). `kept` returns what the pruned model has of a tensor; None where it has all.

    Where activations are quantized, near ties fall to other steps, and steps add up over layers: FLIPS of the numbers
    may differ by more than `allowed`. So models that can be are also held against each other without those steps.

    Raises:
        VerificationError: They differ by more than `allowed`, or the pruned model does not run.
    """
    masked, pruned = with_fixed_draws(masked), with_fixed_draws(pruned)
    if kept is not None:
        kept = partial(_kept_of_draws, kept)
    hold = partial(_hold, feeds=feeds, trials=trials, kept=kept, providers=providers, threads=threads)
    if not any(map(quantizes, masked.graph.node)):
        return hold(masked, pruned, allowed=allowed)
    one, two = without_steps(masked), without_steps(pruned)
    if not any(map(quantizes, (*one.graph.node, *two.graph.node))):
        half = any(tensor.data_type in HALVES for tensor in masked.graph.initializer)
        hold(one, two, allowed=HALF if half else FLOAT32)
    return hold(masked, pruned, allowed=allowed, flips=FLIPS)


def _kept_of_draws(kept: Callable[[str, AnyArray], AnyArray], name: str, array: AnyArray) -> AnyArray:
    """Return what the pruned model has of a tensor: of one that stands for a draw what it has of the draw."""
    return kept(drawn_output(name), array)


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


class _Settings(TypedDict):
    """How two models are compared: the arguments of `_compare`."""

    feeds: Sequence[Arrays]
    trials: Sequence[Arrays]
    allowed: float
    kept: Callable[[str, AnyArray], AnyArray] | None
    providers: Sequence[ProviderRequest]
    threads: int | None
    flips: NotRequired[float]


def _hold(masked: ModelProto, pruned: ModelProto, **settings: Unpack[_Settings]) -> Equivalence:
    """Compare two models; where bodies with weights decide on what they compute, once more with that given to them.

    Raises:
        VerificationError: They differ either way.
    """
    try:
        return _compare(masked, pruned, (), **settings)
    except VerificationError:
        shown, inside = showing_inside(masked)
        other, same = showing_inside(pruned)
        if not inside or inside != same:
            raise
        try:
            return _compare(shown, other, inside, **settings)
        except (ModelError, VerificationError):
            # What bodies decide on may have another shape every turn, or fewer channels: it cannot be given then.
            pass
        raise


def _compare(
    masked: ModelProto,
    pruned: ModelProto,
    inside: tuple[InnerDecision, ...],
    feeds: Sequence[Arrays],
    trials: Sequence[Arrays],
    *,
    allowed: float,
    kept: Callable[[str, AnyArray], AnyArray] | None,
    providers: Sequence[ProviderRequest],
    threads: int | None,
    flips: float = 0.0,
) -> Equivalence:
    pair = ModelPair.of(masked, pruned, kept, inside)
    one, two = _open("the masked original", partial(pair.exposed, masked), providers, threads), None
    whole = FLIPS if pair.decisions.hidden and not inside else flips
    errors = dict.fromkeys(pair.watched, 0.0)
    blank, runs = True, 0
    given: Arrays = {}
    for feed, values in _answers(one, feeds, trials):
        runs += 1
        wanted = pair.wanted(values)
        given = pair.given(wanted)
        two = two or _open("the pruned model", partial(pair.exposed, pruned, given), providers, threads)
        try:
            outputs = run_on(two, feed, given)
        except ModelError as failure:
            raise VerificationError(f"the pruned model does not run: {failure}") from failure
        if not whole:
            check_results(pair.decisions, wanted, outputs)
        for name, value in wanted.items():
            blank = blank and not np.any(value)
            share = flips if value.dtype.kind in "fV" else whole
            gap = _difference(name, value, outputs[name], floor=pair.watched[name], flips=share)
            errors[name] = max(errors[name], gap)
    limits = dict.fromkeys(errors, allowed)
    if max(errors.values()) > allowed:
        fixed = pair.exposed(masked, given)
        sessions = (
            _open("the masked original", fixed, providers, threads),
            open_session(fixed, providers, threads=threads),
        )
        limits = _limits(pair, [_rounding_noise(one, *sessions, feed, pair) for feed in feeds], allowed)
    worst = max(errors, key=lambda name: errors[name] / limits[name])
    if errors[worst] > limits[worst]:
        shown = worst in {output.name for output in masked.graph.output}
        raise VerificationError(
            f"the pruned model is not the masked original: the {'output' if shown else 'tensor'} '{worst}' differs by "
            f"{errors[worst]:.1e} of its largest value, {limits[worst]:.0e} is allowed",
            hint="please report it with the model: a fault of onnxpfp, or rounding that this network amplifies",
        )
    return Equivalence(errors[worst], limits[worst], runs, blank)
