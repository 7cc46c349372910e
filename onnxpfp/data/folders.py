"""Folders of samples: images, arrays, or ONNX test data; told apart by what lies in them.

Files are taken in the order of their paths, numbers in names by their value, from subfolders, too. Of arrays every
`.npy` or `.npz` file is a sample, or a batch, as its number of axes says; files that are called like the inputs hold
all samples of one each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.archive import read_arrays
from onnxpfp.data.axes import SampleAxes, sample_axes
from onnxpfp.data.images import IMAGE_SUFFIXES
from onnxpfp.data.inputs import InputSpec
from onnxpfp.data.matching import match_names
from onnxpfp.data.sample_arrays import check_feed
from onnxpfp.data.samples import Feed
from onnxpfp.errors import CalibrationError
from onnxpfp.runtime.memory import amount_text, memory_limit

__all__ = ["SAMPLE_SUFFIXES", "array_feeds", "files_by_kind", "held", "joined_feeds", "named_arrays", "spread"]

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
SAMPLE_SUFFIXES = IMAGE_SUFFIXES | ARRAY_SUFFIXES
"""Of all files that are taken for samples."""
_HELD = 4
"""One of so many bytes of the memory may be for feeds, which are all held."""
_NUMBERS = re.compile(r"(\d+)")


def files_by_kind(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the images and the arrays of a folder and its subfolders; hidden ones are left out.

    Raises:
        CalibrationError: There are both, or none.
    """
    images: list[Path] = []
    arrays: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = Path(name).suffix.lower()
            kind = images if suffix in IMAGE_SUFFIXES else arrays if suffix in ARRAY_SUFFIXES else None
            if kind is not None and not name.startswith("."):
                kind.append(Path(place, name))
    if images and arrays:
        raise CalibrationError(
            f"{folder} has {counted(len(images), 'image')} and {counted(len(arrays), 'array')}: which are the samples "
            "is not known",
            hint="name a folder of one kind",
        )
    if not images and not arrays:
        raise CalibrationError(
            f"{folder} has no samples: no images, .npy or .npz files, nor test_data_set_0/input_0.pb",
            hint="images are " + ", ".join(sorted(IMAGE_SUFFIXES)),
        )
    return sorted(images, key=_order), sorted(arrays, key=_order)


def _order(path: Path) -> list[tuple[bool, int, str]]:
    """Return what sorts paths with numbers in names by their value."""
    parts = (_NUMBERS.split(part) for part in path.parts)
    return [(piece.isdecimal(), int(piece) if piece.isdecimal() else 0, piece) for part in parts for piece in part]


def spread(paths: Sequence[Path], most: int | None) -> list[Path]:
    """Return so many files, evenly spread over all."""
    if most is None or most >= len(paths):
        return [*paths]
    return [paths[number * len(paths) // most] for number in range(most)]


def named_arrays(paths: Sequence[Path], specs: Sequence[InputSpec]) -> dict[str, Path] | None:
    """Return the files that are called like the inputs, where every input has one; None where they are samples."""
    files = {path.stem: path for path in paths if path.suffix.lower() == ".npy"}
    names = {spec.name for spec in specs}
    same = len(files) == len(paths) and files.keys() == names
    return {name: files[name] for name in names} if same or (len(names) > 1 and files.keys() >= names) else None


def array_feeds(
    paths: Sequence[Path], specs: Sequence[InputSpec], axes: SampleAxes, optional: Sequence[str]
) -> Iterator[Feed]:
    """Yield the feeds of files that are samples or batches.

    Args:
        paths: The files.
        specs: The inputs.
        axes: Sample axes that the user says.
        optional: Names of states that may be there, too.

    Raises:
        CalibrationError: A file cannot be read, or does not fit.
    """
    known = sample_axes(specs, axes)
    for path in paths:
        matched = match_names(read_arrays(path), specs, str(path), optional)
        found = {name: np.array(array) for name, array in matched.items()}
        given = {name: array for name, array in found.items() if name in optional}
        feeds = _feeds_of({name: array for name, array in found.items() if name not in optional}, specs, known)
        for number, feed in enumerate(feeds):
            yield check_feed(specs, feed, str(path)) | ({} if number else given)


def _feeds_of(arrays: Feed, specs: Sequence[InputSpec], axes: SampleAxes) -> list[Feed]:
    """Cut the arrays of a file into feeds: one, or where they have an axis more than the inputs, one for each entry."""
    ranks = {spec.name: len(spec.shape) for spec in specs}
    counts = {len(array) for name, array in arrays.items() if array.ndim == ranks[name] + 1}
    if len(counts) == 1:
        return [
            {name: array[number] if array.ndim == ranks[name] + 1 else array for name, array in arrays.items()}
            for number in range(counts.pop())
        ]
    return [{name: _with_batch(array, ranks[name], axes.get(name)) for name, array in arrays.items()}]


def _with_batch(array: NDArray[Any], rank: int, axis: int | None) -> NDArray[Any]:
    """Give an array of one sample the axis of the samples that it lacks."""
    return np.expand_dims(array, axis) if array.ndim == rank - 1 and axis is not None else array


def held(feeds: Iterator[Feed]) -> Iterator[Feed]:
    """Pass on feeds that are all held in memory.

    Raises:
        CalibrationError: They take too much.
    """
    limit, taken = memory_limit() // _HELD, 0
    for number, feed in enumerate(feeds):
        taken += sum(array.nbytes for array in feed.values())
        if taken > limit:
            raise CalibrationError(
                f"{counted(number + 1, 'feed takes', 'feeds take')} more than {amount_text(limit)}",
                hint="take fewer (--calib-samples), or one .npy file, which need not fit into memory",
            )
        yield feed


def joined_feeds(specs: Sequence[InputSpec], feeds: Sequence[Feed], axes: SampleAxes) -> Feed | None:
    """Join feeds to one array an input along its samples; None where their shapes differ otherwise.

    Args:
        specs: The inputs.
        feeds: What was checked against them.
        axes: Sample axes of the inputs; what has none must be the same in all feeds.
    """
    joined: Feed = {}
    for spec in specs:
        arrays, axis = [feed[spec.name] for feed in feeds], axes.get(spec.name)
        if axis is None:
            same = spec.name in axes and all(np.array_equal(array, arrays[0]) for array in arrays)
            if not same:
                return None
            joined[spec.name] = arrays[0]
            continue
        if len({array.shape[:axis] + array.shape[axis + 1 :] for array in arrays}) > 1:
            return None
        joined[spec.name] = np.concatenate(arrays, axis)
    counted = {name: axis for name, axis in axes.items() if axis is not None}
    even = all(len({feed[name].shape[axis] for name, axis in counted.items()}) <= 1 for feed in feeds)
    return joined if even and counted else None
