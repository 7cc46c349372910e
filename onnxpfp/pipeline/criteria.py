"""Criteria by name: the table stands in `onnxpfp.options`, and a class is loaded when its name is asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from onnxpfp.options import SCORES, Options
from onnxpfp.options.features import FEATURE_STATISTICS
from onnxpfp.score.criterion import Criterion
from onnxpfp.score.feature_statistics import FeatureStatistics

__all__ = ["criterion_for", "criterion_of", "title_of"]


def criterion_for(options: Options) -> Criterion:
    """Return the criterion that is asked for, with what options say about it."""
    if options.score == FEATURE_STATISTICS:
        asked = options.dfs, options.dfs_threshold, options.sfs
        return FeatureStatistics(*asked, options.maps, least=options.min_channels)
    return criterion_of(options.score)


def criterion_of(score: object) -> Criterion:
    """Return the criterion of a name, or the one that a user passes himself."""
    return score if isinstance(score, Criterion) else _load(str(score))


@cache
def _load(name: str) -> Criterion:
    module, _, kind = SCORES[name].partition(":")
    criterion = getattr(import_module(f"onnxpfp.score.{module}"), kind)()
    assert isinstance(criterion, Criterion), name
    return criterion


def title_of(name: str) -> str:
    """Return what a report calls a criterion: the name of one that a user passed himself."""
    return criterion_of(name).title if name in SCORES else name
