"""Files of scores: one calibration, or several merged, as a `.npz` archive without Python objects.

    header    text: a JSON object with what it is of (`header.py`), the samples, and all of the parts but their arrays
    digests   (n, 16) uint8: of every sample that was scored, so that none counts twice and none measures the result
    P.KIND.N.FIELD    the statistics of part P, as `onnxpfp.calibrate.statistics` numbers them

Statistics are monoids: maxima and counts of shards merge to those of one run to the bit, sums to rounding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxpfp.counted import counted
from onnxpfp.data.archive import read_arrays
from onnxpfp.errors import CalibrationError, ScoresError
from onnxpfp.model.save import replacing
from onnxpfp.pipeline.scores.header import ScoredSamples, ScoresHeader, missing_shards
from onnxpfp.pipeline.scores.part import ScoredPart
from onnxpfp.pipeline.strict_fields import DamagedError, Fields
from onnxpfp.runtime.file_kinds import refuse_other_kinds

__all__ = ["DIGEST", "ScoresFile", "ScoresSource", "merged_files", "opened_file"]

FORMAT = "onnxpfp-scores"
VERSION = 1
DIGEST = 16
"""Bytes of the digest of a sample."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoresFile:
    """The scores of a network.

    Attributes:
        title: What messages call it: its path.
        header: What it is of.
        data: The samples of every run that it is made of.
        digests: Of every sample that was scored, (n, 16) uint8.
        parts: The parts of the network by place; the main graph has none, and comes first.
    """

    title: str
    header: ScoresHeader
    data: tuple[ScoredSamples, ...]
    digests: NDArray[np.uint8]
    parts: Mapping[str, ScoredPart]

    @property
    def missing(self) -> str:
        """The shards of its samples that it lacks; empty where it has all."""
        return missing_shards(self.data)

    def known(self) -> set[bytes]:
        """Return the digests of what was scored."""
        return {row.tobytes() for row in self.digests}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        document = {
            "format": FORMAT,
            "file": VERSION,
            "header": self.header.to_dict(),
            "data": [each.to_dict() for each in self.data],
            "parts": {place: part.to_dict() for place, part in self.parts.items()},
        }
        arrays = {"header": np.array(json.dumps(document, allow_nan=False)), "digests": self.digests}
        for number, part in enumerate(self.parts.values()):
            arrays |= part.arrays(number)
        with replacing(Path(path)) as stream:
            # Float matrices hardly get smaller.
            np.savez(stream, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoresFile:
        """Read a file that `save` wrote.

        Raises:
            ScoresError: It is none, or is damaged.
        """
        _require_path(path)
        refuse_other_kinds(Path(path), "a file of scores", FORMAT, ScoresError)
        with _explained(path):
            arrays = read_arrays(Path(path))
            return _read(str(path), _document(arrays), arrays)


def _require_path(given: object) -> None:
    """Refuse what is no path of a file, such as the report that has the scores.

    Raises:
        ScoresError: It is none.
    """
    if not isinstance(given, str | os.PathLike):
        raise ScoresError(
            f"scores are a ScoresFile or the path of one, not {type(given).__name__}",
            hint="reports of measure_scores and merge_scores have one: report.scores",
        )


@contextmanager
def _explained(path: str | os.PathLike[str]) -> Generator[None]:
    """Say in one line why a file cannot be read.

    Raises:
        ScoresError: It cannot.
    """
    try:
        yield
    except CalibrationError as error:
        raise ScoresError(str(error), hint="write it with onnxpfp score") from error
    except KeyError as error:
        raise ScoresError(f"{path}: is no file of scores: it has no array {error}", hint=_AGAIN) from error
    except (DamagedError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ScoresError(f"{path}: is no file of scores: {error}", hint=_AGAIN) from error


_AGAIN = "score the network again: onnxpfp score"


def _document(arrays: Mapping[str, NDArray[Any]]) -> Fields:
    """Read the header of a file.

    Raises:
        DamagedError: It is none of scores.
    """
    text = arrays["header"]
    if text.shape or text.dtype.kind != "U":
        raise DamagedError("its header is no text")
    top = Fields.of("the header", json.loads(str(text)))
    if top.text("format") != FORMAT:
        raise DamagedError("its header is of something else")
    if top.count("file", 1) != VERSION:
        raise DamagedError(f"it has version {top.count('file', 1)} of the format, and this onnxpfp reads {VERSION}")
    return top


def _samples(top: Fields) -> tuple[ScoredSamples, ...]:
    return tuple(ScoredSamples.read(Fields.of("the samples", each)) for each in top.listed("data"))


def _read(title: str, top: Fields, arrays: Mapping[str, NDArray[Any]]) -> ScoresFile:
    """Read the document and the arrays of a file.

    Raises:
        DamagedError: They cannot be meant.
    """
    header = ScoresHeader.read(top.inner("header"))
    data = _samples(top)
    digests = arrays["digests"]
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST:
        raise DamagedError("'digests' has no digests of samples")
    parts = top.inner("parts")
    read = {
        place: ScoredPart.read(Fields.of(f"the part '{place}'", parts.raw[place]), arrays, number)
        for number, place in enumerate(parts.raw)
    }
    if "" not in read or not data:
        raise DamagedError("it has no main graph, or no samples")
    return ScoresFile(title, header, data, digests, read)


def merged_files(files: Sequence[ScoresSource], title: str) -> ScoresFile:
    """Merge files of one network, in an order that is the same whatever the order of the files.

    One after the other is read, for matrices may be large.

    Args:
        files: Paths, or files that have been read.
        title: What messages call the result.

    Raises:
        ScoresError: They are of different networks, were measured differently, or have samples in common.
    """
    if not files:
        raise ScoresError("there are no files of scores to merge", hint="name at least one")
    first, *others = sorted(files, key=_order)
    one = opened_file(first)
    result = replace(one, title=title)
    for number, file in enumerate(others):
        result = _merged(result, opened_file(file), title if number else one.title)
    return result


ScoresSource = str | os.PathLike[str] | ScoresFile
"""A file of scores, read or not."""


def opened_file(file: ScoresSource) -> ScoresFile:
    """Read a file of scores that may have been read.

    Raises:
        ScoresError: It is none.
    """
    return file if isinstance(file, ScoresFile) else ScoresFile.read(file)


def _order(file: ScoresSource) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return what files are sorted by: the samples, and the shards of them."""
    if isinstance(file, ScoresFile):
        data = file.data
    else:
        _require_path(file)
        refuse_other_kinds(Path(file), "a file of scores", FORMAT, ScoresError)
        with _explained(file):
            data = _samples(_document(read_arrays(Path(file))))
    return [(each.digest, [(shard.of, shard.number) for shard in each.shards]) for each in data]


def _merged(one: ScoresFile, two: ScoresFile, other: str) -> ScoresFile:
    """Merge two files; `other` is what a message calls the first, as far as it is merged by now."""
    for mine, theirs in two.header.differences(one.header):
        raise ScoresError(
            f"{two.title} was scored {mine}, and {other} {theirs}", hint="merge files of one network and one command"
        )
    common = _common(one, two)
    if common:
        raise ScoresError(
            f"{two.title} and {other} have {common} in common, which would count twice",
            hint="give each file once, and shards of one number: --shard 1/4, 2/4, ...",
        )
    differing = next(_differing(one, two), "")
    if differing:
        raise ScoresError(
            f"{differing} on the samples of {two.title} than on those of {other}, so other networks were measured",
            hint="score shards of one file, --shard i/n, for these go by all samples of the file",
        )
    try:
        parts = {place: part.merge(two.parts[place]) for place, part in one.parts.items()}
    except CalibrationError as error:
        raise ScoresError(f"{two.title} and {other}: {error}", hint=error.hint) from error
    return replace(
        one, data=_joined([*one.data, *two.data]), digests=np.concatenate([one.digests, two.digests]), parts=parts
    )


def _common(one: ScoresFile, two: ScoresFile) -> str:
    """Say which samples two files have in common; empty where they have none."""
    mine, theirs = ([(each.digest, {shard.of for shard in each.shards}) for each in file.data] for file in (one, two))
    if len(mine) == 1 and mine == theirs and len(mine[0][1]) == 1:
        # A sample may be in the data several times.
        both = sorted({*one.data[0].shards} & {*two.data[0].shards})
        return f"shard {', '.join(map(str, both))}" if both else ""
    known = one.known()
    count = sum(row.tobytes() in known for row in two.digests)
    return counted(count, "sample") if count else ""


def _differing(one: ScoresFile, two: ScoresFile) -> Iterator[str]:
    """Yield in what the parts of two files differ."""
    if one.parts.keys() != two.parts.keys():
        yield "other bodies run"
        return
    yield from filter(None, (part.difference(two.parts[place]) for place, part in one.parts.items()))


def _joined(data: Sequence[ScoredSamples]) -> tuple[ScoredSamples, ...]:
    """Put together what is of the same samples."""
    joined: dict[str, ScoredSamples] = {}
    for each in data:
        joined[each.digest] = joined[each.digest].merge(each) if each.digest in joined else each
    return tuple(joined[digest] for digest in sorted(joined))
