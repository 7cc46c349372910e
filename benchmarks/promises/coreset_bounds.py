"""Hold the bounds of `--score coreset` against the errors that really occur.

    python -m benchmarks.promises.coreset_bounds --shared ../shared

Layers of random weights behind several activations, and all layers of ResNet-20 that read channels of a group. For
every layer, selection and delta, channels are selected anew `DRAWS` times (the deterministic selection once), and the
largest error of any output of the layer is measured for `INPUTS` inputs: random ones of the norm that the bound is
for, and calibration images of which beta is the largest patch norm. One such triple is over where that error is larger
than the bound. The bound of draws holds for all outputs of one input at once, with a probability of 1 - delta.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.promises.networks_run import Nodes, tensors
from onnxpfp.allocation.select import Selection, Variant, select
from onnxpfp.linear.describe import linear_ops
from onnxpfp.linear.reach import InputLimits, reaches_of
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext, open_run
from onnxpfp.pipeline.input_limits import measured_limits
from onnxpfp.pipeline.measurements import Measurements
from onnxpfp.score.coreset import Coreset, coreset_sensitivities

__all__ = ["Row", "main"]

DRAWS, INPUTS, WIDTH = 40, 64, 0.5
DELTAS = (0.5, 0.1, 1e-3)
"""Large ones, so that a bound that is too small would be seen to fail."""
ROUNDING = 1e-6
VARIANTS: Sequence[Variant] = ("deterministic", "sampled", "mixed")
ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "ReLU": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
    "SiLU": lambda x: x / (1.0 + np.exp(-x)),
    "identity": lambda x: x,
}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of the triples of one layer, selection and delta.

    Attributes:
        source: Where the layer comes from.
        layer: Its name.
        variant: How channels were selected.
        delta: Probability that the bound may fail over the draws.
        triples: How many were measured.
        over: In how many of them an output was further off than the bound.
        nearest: The largest error, as a share of its bound.
    """

    source: str
    layer: str
    variant: str
    delta: float
    triples: int
    over: int
    nearest: float


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer, what it reads of a group, and what its channels can add to an output.

    Attributes:
        source: Where it comes from.
        name: Its name.
        s: Sensitivities, (n,).
        change: Makes of factors minus 1, (n,), the largest change of an output for every input, (inputs,).
        outputs: Outputs of one input.
    """

    source: str
    name: str
    s: Array
    change: Callable[[Array], Array]
    outputs: int


def main() -> None:
    """Measure all layers and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = [row for layer in (*_random_layers(), *_trained_layers(options.shared)) for row in _measured(layer)]
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (options.results / "coreset_bounds.jsonl").write_text(lines, encoding="utf-8")
    (options.results / "coreset_bounds.md").write_text(_page(rows), encoding="utf-8")


def _measured(layer: _Layer) -> Iterator[Row]:
    for variant in VARIANTS:
        for delta in DELTAS[:1] if variant == "deterministic" else DELTAS:
            rng, shares = np.random.default_rng(0), list[Array]()
            for _ in range(1 if variant == "deterministic" else DRAWS):
                chosen = _selected(layer, variant, delta, rng)
                assert chosen.bound is not None
                shares.append(layer.change(chosen.factor - 1.0) / max(chosen.bound, np.finfo(np.float64).tiny))
            found = np.concatenate(shares)
            over = int((found > 1.0 + ROUNDING).sum())
            yield Row(layer.source, layer.name, variant, delta, found.size, over, float(found.max()))


def _selected(layer: _Layer, variant: Variant, delta: float, rng: np.random.Generator) -> Selection:
    width = max(1, round(WIDTH * layer.s.size))
    return select(layer.s, width, how=variant, rng=rng, n_outputs=layer.outputs, delta=delta, additive=True)


def _random_layers() -> Iterator[_Layer]:
    """Make two fully connected layers with an activation between; inputs lie on the ball that beta is the radius of."""
    for number, (name, phi) in enumerate(ACTIVATIONS.items()):
        rng = np.random.default_rng(number)
        first, bias, second = rng.normal(size=(64, 20)), rng.normal(size=64), rng.normal(size=(10, 64))
        beta = 2.0
        x = rng.normal(size=(INPUTS, 20))
        x *= beta / np.linalg.norm(x, axis=1, keepdims=True)
        hidden = phi(x @ first.T + bias)
        norms = np.sqrt(np.square(first).sum(1) + np.square(bias)) * np.sqrt(1.0 + beta**2)
        reach = np.tanh(norms) if name == "tanh" else norms
        s = coreset_sensitivities(reach, [second[:, :, None]])

        def change(lost: Array, hidden: Array = hidden, second: Array = second) -> Array:
            return np.abs((hidden * lost) @ second.T).max(axis=1)

        yield _Layer("random", name, s, change, len(second))


def _trained_layers(shared: Path) -> Iterator[_Layer]:
    """Take the layers of ResNet-20 that read a group, with calibration images."""
    folders, network = Folders(shared, Path("nowhere")), NETWORKS["resnet20"]
    file, images = network.file(folders, "folded"), network.calibration(folders).drawn(0, INPUTS).x
    context = open_run(file, images, Options(score=Coreset.name), ())
    analysis, model = context.whole, onnx.load(file)
    reaches = reaches_of(analysis, _limits(context))
    nodes = Nodes.of(model)
    for group, doubt in zip(analysis.graph.groups, reaches.doubts, strict=True):
        for position in group.consumers if not doubt else ():
            consumer = analysis.graph.consumers[position]
            layer = nodes.layers[consumer.name]
            (stored,) = (each for each in model.graph.initializer if each.name == layer.weight)
            weight = layer.canonical(onnx.numpy_helper.to_array(stored))
            windows = np.concatenate([*map(layer.windows, tensors(model, images, layer.data, 32))])
            if not np.array_equal(consumer.channels, group.channels):
                continue
            s = coreset_sensitivities(reaches.values[group.channels], [weight.transpose(2, 0, 1)])

            def change(lost: Array, windows: Array = windows, weight: Array = weight) -> Array:
                count, kernel = weight.shape[:2]
                left = windows.reshape(*windows.shape[:2], count * kernel)
                changed = left @ (weight * lost[:, None, None]).reshape(count * kernel, -1)
                return np.abs(changed).max(axis=(1, 2))

            yield _Layer("ResNet-20", consumer.name, s, change, windows.shape[1] * weight.shape[2])


def _limits(context: RunContext) -> InputLimits:
    samples, ops = context.data.samples, linear_ops(context.whole)
    measurements = Measurements(context.whole, ops, samples, 16, context.requests, context.options, None)
    return measured_limits(context.whole, measurements)


def _page(rows: Sequence[Row]) -> str:
    """Sum up by source, selection and delta."""
    keys = dict.fromkeys((row.source, row.variant, row.delta) for row in rows)
    lines: list[str] = []
    for source, variant, delta in keys:
        mine = [row for row in rows if (row.source, row.variant, row.delta) == (source, variant, delta)]
        triples, over = sum(row.triples for row in mine), sum(row.over for row in mine)
        allowed = "0" if variant == "deterministic" else f"{delta:g}"
        nearest = max(row.nearest for row in mine)
        counts = f"{len(mine)} | {triples:,} | {over} | {over / triples:.2g}"
        lines.append(f"| {source} | {variant} | {counts} | {allowed} | {nearest:.2g} |")
    head = "| layers | selection | number | triples | over the bound | share | delta | nearest to the bound |"
    return "\n".join([_HEAD, head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", *lines, ""])


_HEAD = """# Bounds of coreset scores, and the errors that occur

Made by `python -m benchmarks.promises.coreset_bounds` from [coreset_bounds.jsonl](coreset_bounds.jsonl). A triple is a
layer, a selection of half of its channels and an input; it is over where any output of the layer is further off than
the bound that the report would print. Nearest: the largest error as a share of its bound.
"""

if __name__ == "__main__":
    main()
