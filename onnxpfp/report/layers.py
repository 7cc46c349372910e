"""The errors of the layers of the written network: the table, and what its bounds promise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from onnxpfp.comparison.layers import LayerError, LayerErrors
from onnxpfp.counted import counted
from onnxpfp.report.group_charts import layer_errors_chart
from onnxpfp.report.groups import ROWS
from onnxpfp.report.page import Column, Element, Heading, Line, Table, at_most, number

__all__ = ["about_layers"]

MOST = 3
"""Most reasons why there is no error, or no bound."""
REFIT = (
    "before and after its refit: squared error of the output on samples kept out of the fit, as a share of its variance"
)


def about_layers(errors: LayerErrors) -> Iterator[Element]:
    """Show the layers, those with the largest error first, and say what the numbers are."""
    yield Heading("Layers")
    yield layer_errors_chart(errors)
    yield _table(errors.layers)
    yield Line(_meaning(errors))
    if any(layer.refit_after is not None for layer in errors.layers):
        yield Line(REFIT)
    missing = Counter(layer.reason for layer in errors.layers if layer.reason)
    for reason, count in missing.most_common(MOST):
        yield Line(f"not bounded at {counted(count, 'layer')}: {reason}")


def _meaning(errors: LayerErrors) -> str:
    """Say what was measured, and what it promises."""
    said = (
        "relative error of each layer's output in the written network, inputs drifted and refit included, on "
        f"{counted(errors.samples, 'held-out sample')}"
    )
    bounded = [layer.share for layer in errors.layers if layer.share is not None]
    if not bounded:
        return said
    where = "this layer" if len(bounded) == 1 else f"every one of these {len(bounded)} layers at once"
    return (
        f"{said}; with a confidence of {100 * errors.confidence:g} %, at {where} {100 * bounded[0]:g} % of inputs like "
        "them have at most the error that is given"
    )


def _table(layers: Sequence[LayerError]) -> Table:
    share = next((layer.share for layer in layers if layer.share is not None), None)
    rows = [
        (
            *(layer.name, _mean(layer.mean), "-" if layer.bound is None else at_most(layer.bound, 3)),
            *(_percent(layer.refit_before), _percent(layer.refit_after)),
        )
        for layer in sorted(layers, key=_size, reverse=True)
    ]
    most = "at most" if share is None else f"at most, in\n{100 * share:g} % of inputs"
    columns = (Column("layer"), *map(number, ("mean\nerror", most, "before\nits refit", "after")))
    return Table(columns, rows, of="layers", most=ROWS, flag="-v")


def _size(layer: LayerError) -> float:
    """Return what layers are sorted by; those that were not measured come last."""
    return -1.0 if layer.mean is None else layer.mean


def _mean(mean: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3g}" if math.isfinite(mean) else "inf"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
