"""Merge files of scores."""

from __future__ import annotations

from collections.abc import Sequence

from onnxpfp.api.keywords import in_keywords
from onnxpfp.errors import ScoresError
from onnxpfp.pipeline.scores.file import ScoresFile, ScoresSource, merged_files
from onnxpfp.report.scores import ScoresReport

__all__ = ["merge_scores", "merge_with"]


def merge_scores(files: Sequence[ScoresSource]) -> ScoresReport:
    """Merge scores of shards, or of several sets of samples; `report.scores.save(path)` writes what comes of it.

    Maxima and counts are those of one run to the bit, sums to 1e-6. The order of the files makes no difference.

    Args:
        files: Paths, or scores as `measure_scores` reports them.

    Raises:
        ScoresError: A file is damaged, or they are of different networks, were measured differently, or have samples
            in common.
    """
    try:
        return merge_with(files)
    except ScoresError as error:
        error.args = tuple(in_keywords(str(part)) for part in error.args)
        error.hint = in_keywords(error.hint)
        raise


def merge_with(files: Sequence[ScoresSource], title: str = "the merged scores") -> ScoresReport:
    """Merge scores; the command line comes in here.

    Args:
        files: As in `merge_scores`.
        title: What messages call the result.

    Raises:
        ScoresError: As in `merge_scores`.
    """
    titles = tuple(file.title if isinstance(file, ScoresFile) else str(file) for file in files)
    return ScoresReport.of(merged_files(files, title), merged=titles)
