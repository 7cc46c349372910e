"""The plan of a sparsification: which weights stay and what they are multiplied by, to replay on the same network."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxpfp.arrays import Floats
from onnxpfp.errors import PlanError
from onnxpfp.pipeline.documents import read_document, read_made_by, whole_number

__all__ = ["SparsePlan"]

FORMAT = "onnxpfp-sparse-plan"
VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class SparsePlan:
    """The factors of all weights of the layers that were in question.

    Attributes:
        source_sha256: Checksum of the file that it was made for.
        factors: By the name of the tensor that ops read, in its shape: 0 of weights that go, 1 of those that stay as
            they are, else what they are multiplied by.
        made_by: Target, options and agreement of the file that it was made with, as in `onnxpfp.Plan`.
    """

    source_sha256: str
    factors: Mapping[str, Floats]
    made_by: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> str:
        """Write the plan as JSON; `docs/sparsify.md` says how to read the masks."""
        weights = {name: _entry(factors) for name, factors in self.factors.items()}
        made_by = {"made_by": dict(self.made_by)} if self.made_by else {}
        head = {"format": FORMAT, "version": VERSION, "source_sha256": self.source_sha256}
        document = {**head, **made_by, "weights": weights}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> SparsePlan:
        """Read a plan file.

        Raises:
            PlanError: It is missing, is no such plan, or is one of another version.
        """
        fields = read_document(path, "plan of onnxpfp sparsify", FORMAT, PlanError)
        if fields.get("format") != FORMAT:
            hint = "write one with onnxpfp sparsify --plan FILE.json"
            raise PlanError(f"{path}: is no plan of onnxpfp sparsify", hint=hint)
        if fields.get("version") != VERSION:
            raise PlanError(f"{path}: is a plan of version {fields.get('version')}, not {VERSION}")
        try:
            factors = {name: _factors(entry) for name, entry in fields["weights"].items()}
            return cls(str(fields["source_sha256"]), factors, read_made_by(fields))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
            raise PlanError(f"{path}: the plan is damaged: {error!r}") from error

    def of(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return the factors of one weight; ones where it has none.

        Raises:
            PlanError: It has them for another shape.
        """
        factors = self.factors.get(name)
        if factors is None:
            return np.ones(shape)
        if factors.shape != shape:
            raise PlanError(
                f"the weight '{name}' has shape {list(shape)}, the plan says {list(factors.shape)}",
                hint="replay a plan on the network it was made for, not on what came out of it",
            )
        return factors


def _entry(factors: Floats) -> dict[str, Any]:
    stay = factors != 0
    scaled = factors[stay]
    return {
        "shape": list(factors.shape),
        "kept": int(stay.sum()),
        "mask": _packed(np.packbits(stay.ravel()).tobytes()),
        **({} if (scaled == 1).all() else {"factors": _packed(scaled.astype("<f8").tobytes())}),
    }


def _factors(entry: Mapping[str, Any]) -> Floats:
    shape = tuple(map(whole_number, entry["shape"]))
    size = math.prod(shape)
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {list(shape)}")
    bits = np.frombuffer(_unpacked(entry["mask"], (size + 7) // 8), np.uint8)
    stay = np.unpackbits(bits, count=size).astype(np.bool_)
    kept = int(stay.sum())
    if kept != whole_number(entry["kept"]):
        raise ValueError(f"{kept} weights stay by the mask, {entry['kept']} as the plan says")
    factors = np.zeros(size)
    factors[stay] = np.frombuffer(_unpacked(entry["factors"], 8 * kept), "<f8") if "factors" in entry else 1.0
    if not np.isfinite(factors).all() or (factors < 0).any() or int(np.count_nonzero(factors)) != kept:
        raise ValueError("there are impossible factors")
    return factors.reshape(shape)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _unpacked(text: str, size: int) -> bytes:
    """Return so many bytes; never more, whatever the text grows to."""
    stream = zlib.decompressobj()
    data = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size:
        raise ValueError(f"a mask has {len(data)} bytes or more where {size} are needed")
    return data
