"""Forms of latency tables: models at several widths, to be timed on a device that has no onnxpfp, and blanks for that.

The widths are drawn as for a table that is measured (`onnxpfp.pipeline.latency.points`), but in what steps the kernels
of the device work is not known yet. The last points are in multiples of `STEP`: they count for all steps up to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorShapeProto

from onnxpfp.arrays import Ints
from onnxpfp.model.save import save_model
from onnxpfp.model.shapes import Shapes
from onnxpfp.pipeline.costs import full_widths
from onnxpfp.pipeline.latency.interleaved import samples_in_run
from onnxpfp.pipeline.latency.op_latencies import MeasuredWidths
from onnxpfp.pipeline.latency.points import (
    MULTIPLES,
    POINTS,
    TRIALS,
    cut_to,
    draw_shares,
    rounded,
    steps_of,
)
from onnxpfp.pipeline.latency.table import UNMEASURED, LatencyTable, PartTable, TablePoint, group_names, point_of
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.runtime.blocks import USUAL, Alignment

__all__ = ["write_form"]

STEP = 16
"""Multiple of the last points; fewer than 16 channels at once divide it."""


def write_form(network: Network, folder: Path) -> LatencyTable:
    """Write the models at all points, those of all parts numbered through.

    Args:
        network: The network.
        folder: Where to; it is made where there is none.

    Returns:
        A table without latencies; its points name the models.

    Raises:
        OutputError: A model cannot be written.
    """
    context, parts, written = network.parts[0].context, dict[str, PartTable](), 0
    folder.mkdir(exist_ok=True)
    with context.clock.phase("models") as progress:
        drawn = [(part, [*_widths(part)]) for part in network.parts]
        count = sum(len(points) for _, points in drawn)
        for part, widths in drawn:
            whole, points = part.context.whole, list[TablePoint]()
            for multiple, kept in widths:
                progress(written, count)
                name = f"{written:02d}.onnx"
                cut = cut_to(whole, kept)
                save_model(folder / name, _with_ranks(cut, whole.shapes) if part.body else cut, external=False)
                points.append(point_of(whole.graph, multiple, MeasuredWidths(kept, UNMEASURED, {}), name))
                written += 1
            sizes = dict(zip(group_names(whole.graph), full_widths(whole).tolist(), strict=True))
            parts[part.place] = PartTable(sizes, tuple(points))
    return LatencyTable(context.whole.source.sha256, "", (), None, samples_in_run(context), parts)


def _widths(part: NetworkPart) -> Iterator[tuple[int, Ints]]:
    """Draw the widths of all points of a part; yields of what they are multiples, and the widths."""
    context = part.context
    sizes, rng = full_widths(context.whole), np.random.default_rng(context.options.seed)
    yield 0, sizes
    if not part.prunable:
        return
    alignment = context.alignment if context.alignment.asked else Alignment(STEP, "", "measured", USUAL)
    for shares in draw_shares(rng, sizes, 0 if alignment.asked else TRIALS):
        for multiple in MULTIPLES:
            yield multiple, rounded(shares * sizes, sizes, np.full_like(sizes, multiple))
    for shares in draw_shares(rng, sizes, POINTS):
        yield alignment.step, rounded(shares * sizes, sizes, steps_of(alignment, sizes))


def _with_ranks(model: ModelProto, shapes: Shapes) -> ModelProto:
    """Say how many axes the outputs of a body have, which its model leaves open: other tools insist on it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for info in copy.graph.output:
        tensor, axes = info.type.tensor_type, shapes.shape.get(info.name)
        if axes is not None and not tensor.HasField("shape"):
            tensor.shape.CopyFrom(TensorShapeProto(dim=[TensorShapeProto.Dimension() for _ in axes]))
    return copy
