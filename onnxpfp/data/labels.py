"""Labels: the class of every sample, for a loss against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import Ints
from onnxpfp.counted import counted
from onnxpfp.data.archive import read_arrays
from onnxpfp.data.samples import ArraySamples, Samples
from onnxpfp.errors import CalibrationError, OptionError

__all__ = ["labels_of", "read_labels"]


def read_labels(source: object) -> Ints:
    """Read the labels of all samples, (N,).

    Args:
        source: A `.npy` file or a `.npz` file with one array, or the array itself.

    Raises:
        OptionError: There are none, or they are no whole numbers from 0 on, one for each sample.
    """
    given = isinstance(source, str | Path)
    title, array = (f"--labels {source}", _read(Path(source))) if given else ("--labels", np.asarray(source))
    flat = array.reshape(-1) if array.ndim == 2 and 1 in array.shape else array
    whole = flat.dtype.kind in "iub" or (flat.dtype.kind == "f" and bool((flat == np.round(flat)).all()))
    if flat.ndim != 1 or not flat.size or not whole or flat.min() < 0:
        raise OptionError(
            f"{title}: labels are whole numbers from 0 on, one for each sample, not {flat.dtype} {list(array.shape)}",
            hint="give the number of the class of every sample, in the order of the samples",
        )
    return flat.astype(np.int64)


def _read(path: Path) -> NDArray[Any]:
    try:
        arrays = read_arrays(path)
    except CalibrationError as error:
        raise OptionError(f"--labels {error}", hint=error.hint) from error
    if len(arrays) != 1:
        raise OptionError(
            f"--labels {path} holds {len(arrays)} arrays: {', '.join(arrays)}", hint="give a file with one"
        )
    return next(iter(arrays.values()))


def labels_of(samples: Samples, labels: Ints) -> Ints:
    """Return the labels of samples that were picked from all.

    Args:
        samples: Some of the samples, or all.
        labels: Of all samples, (N,).

    Raises:
        OptionError: There are not as many labels as samples, or samples have no number.
    """
    if not isinstance(samples, ArraySamples):
        raise OptionError(
            "--labels takes samples that lie in arrays, so that it is known which label is whose",
            hint="give the samples as one .npz file, an array for every input",
        )
    counts = {reading.count for reading in samples.readings.values() if reading.count is not None}
    if counts != {len(labels)}:
        raise OptionError(
            f"--labels: {len(labels)} for {counted(next(iter(counts), 1), 'sample')}", hint="give one for each sample"
        )
    return labels[samples.order[: len(samples)]]
