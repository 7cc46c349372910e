"""The data of charts as the scripts of a page read them (`assets/charts.js`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from onnxpfp.errors import legible
from onnxpfp.report.charts import Bars, Chart, Plot, Profile
from onnxpfp.report.html_size import Detail

__all__ = ["chart_data"]


def chart_data(chart: Chart, detail: Detail) -> dict[str, Any]:
    """Return a chart in types that JSON knows.

    Args:
        chart: The chart.
        detail: How much of it is shown.
    """
    match chart:
        case Bars():
            return _bars(chart, detail)
        case Profile():
            values = _rounded(chart.values, detail.digits)
            return {"kind": "profile", **asdict(chart), "values": values, "gone": [*chart.gone]}
        case Plot():
            return _curves(chart, detail)


def _bars(bars: Bars, detail: Detail) -> dict[str, Any]:
    shown = slice(None, detail.rows)
    series = [
        {"name": each.name, "values": _rounded(each.values[shown], detail.digits), "faint": each.faint}
        for each in bars.series
    ]
    details = {
        legible(label): [chart_data(chart, detail) for chart in charts]
        for label, charts in (bars.details.items() if detail.details else ())
    }
    return {
        "kind": "bars",
        "title": bars.title,
        "labels": [legible(label) for label in bars.labels[shown]],
        "series": series,
        "axis": bars.axis,
        "unit": bars.unit,
        "stacked": bars.stacked,
        "details": details,
        "of": bars.of,
        "order": bars.order,
    }


def _curves(curves: Plot, detail: Detail) -> dict[str, Any]:
    drawn = [
        {
            "name": legible(curve.name),
            # A logarithm or a number without a size has no place.
            "points": [_rounded(point, detail.digits) for point in curve.points if all(map(math.isfinite, point))],
            "labels": [legible(label) for label in curve.labels],
            "faint": curve.faint,
            "joined": curve.joined,
        }
        for curve in curves.curves
    ]
    limit = curves.limit if curves.limit is not None and math.isfinite(curves.limit) else None
    return {
        "kind": "curves",
        "title": curves.title,
        "across": curves.across,
        "up": curves.up,
        "units": [*curves.units],
        "curves": drawn,
        "limit": limit,
        "limit_name": curves.limit_name,
    }


def _rounded(values: Iterable[float | None], digits: int) -> list[float | int | None]:
    """Round numbers to so many digits; whole ones stay as they are, and what has no size becomes null."""
    return [
        value
        if value is None or isinstance(value, int)
        else float(f"{value:.{digits}g}")
        if math.isfinite(value)
        else None
        for value in values
    ]
