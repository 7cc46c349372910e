"""Merge files of scores."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnxpfp.api.keywords import in_keywords
from onnxpfp.errors import ScoresError
from onnxpfp.pipeline.scores.file import ScoresFile, merged_files
from onnxpfp.report.scores import ScoresReport

__all__ = ["merge_scores", "merge_with"]


Scores = str | os.PathLike[str] | ScoresFile


def merge_scores(files: Sequence[Scores]) -> ScoresReport:
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


def merge_with(files: Sequence[Scores], title: str = "the merged scores") -> ScoresReport:
    """Merge scores; the command line comes in here.

    Args:
        files: As in `merge_scores`.
        title: What messages call the result.

    Raises:
        ScoresError: As in `merge_scores`.
    """
    read = [file if isinstance(file, ScoresFile) else ScoresFile.read(file) for file in files]
    merged = merged_files(read, title)
    return ScoresReport.of(merged, merged=tuple(file.title for file in read))
