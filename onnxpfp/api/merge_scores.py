"""Merge files of scores."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnxpfp.pipeline.scores.file import ScoresFile, merged_files
from onnxpfp.report.scores import ScoresReport

__all__ = ["merge_scores"]


def merge_scores(
    files: Sequence[str | os.PathLike[str] | ScoresFile], title: str = "the merged scores"
) -> ScoresReport:
    """Merge scores of shards, or of several sets of samples; `report.scores.save(path)` writes what comes of it.

    Maxima and counts are those of one run to the bit, sums to 1e-6. The order of the files makes no difference.

    Args:
        files: Paths, or scores as `measure_scores` reports them.
        title: What messages call the result.

    Raises:
        ScoresError: A file is damaged, or they are of different networks, were measured differently, or have samples
            in common.
    """
    read = [file if isinstance(file, ScoresFile) else ScoresFile.read(file) for file in files]
    merged = merged_files(read, title)
    return ScoresReport.of(merged, merged=tuple(file.title for file in read))
