"""Charts of a sweep: what every model costs against how far it is from the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxpfp.report.charts import Curve, Plot
from onnxpfp.report.swept import SweptModel

__all__ = ["sweep_plots"]

_COSTS = {
    "keep_params": "parameters left",
    "keep_size": "bytes of the file left",
    "keep_latency": "latency left",
    "latency_ms": "latency left",
}
"""What is left, where that is not the MACs."""


def sweep_plots(models: Sequence[SweptModel], best: Sequence[SweptModel], asked: str) -> Iterator[Plot]:
    """Show the error and the agreement over what is left, the models that no other is better than joined.

    Args:
        models: What came of the targets.
        best: Those that no other is better than.
        asked: The option whose values were the targets.
    """
    across = _COSTS.get(asked, "MACs left")
    errors = [(each, each.cost(asked), each.error) for each in models]
    if any(error is not None for _, _, error in errors):
        yield Plot("Error of the output, by what is left", across, "error", _sides(errors, best))
    agreements = [(each, each.cost(asked), each.agreement) for each in models]
    if any(agreement is not None for _, _, agreement in agreements):
        curves = _sides(agreements, best)
        yield Plot("Same top-1 class, by what is left", across, "agreement", curves, units=("share", "share"))


def _sides(
    measured: Sequence[tuple[SweptModel, float | None, float | None]], best: Sequence[SweptModel]
) -> list[Curve]:
    """Put the best models on one curve, by cost, and the others beside it."""
    placed = [(cost, value, each) for each, cost, value in measured if cost is not None and value is not None]
    placed.sort(key=lambda point: point[0])
    sides = {"best": [each for each in placed if each[2] in best], "others": [e for e in placed if e[2] not in best]}
    return [
        Curve(
            name,
            [(cost, value) for cost, value, _ in points],
            [each.title for _, _, each in points],
            joined=name == "best",
        )
        for name, points in sides.items()
        if points
    ]
