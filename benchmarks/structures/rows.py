"""The rows of the benchmark of structures, one JSON object a line; of rows with the same key the last one counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.row_kinds import Key, RowKinds

__all__ = ["Row", "append", "compact", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network, made smaller in one way.

    Attributes:
        network: A key of `benchmarks.structures.subjects.SUBJECTS`.
        structure: What may go: as `--structure` of prune takes it, or "factorize".
        target: Share that was asked for.
        quantity: Of what: "macs", or "latency" of one run on one thread.
        refused: Why there is no result; empty where there is one. Then all that follows is None.
        macs: Share of the multiply-adds that is left.
        params: Share of the parameters that is left.
        oracle: Largest difference of the file from what it must equal, over the largest output.
        drift: Relative error of the output on held-out samples.
        before: Percentage of test samples that the original gets right; None where weights are random, as below.
        after: Percentage that the file gets right.
        latency: Time of one run over that of the original: the median of pairs, as the report of onnxpfp has it, or
            where latency was asked for as the benchmark measured it.
        quartiles: Lower and upper quartile of that; None in rows of the other kind.
        ranked: Layers that became two.
        gone: Groups of which nothing is left.
        seconds: Processor seconds of the call.
    """

    network: str
    structure: str
    target: float
    quantity: str = "macs"
    refused: str = ""
    macs: float | None = None
    params: float | None = None
    oracle: float | None = None
    drift: float | None = None
    before: float | None = None
    after: float | None = None
    latency: float | None = None
    quartiles: tuple[float, float] | None = None
    ranked: int | None = None
    gone: int | None = None
    seconds: float | None = None

    @property
    def key(self) -> Key:
        """What tells it from other rows."""
        return self.network, self.structure, self.quantity, self.target


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_KINDS: RowKinds[Row] = RowKinds((Row,), _stored)
read, append, compact = _KINDS.read, _KINDS.append, _KINDS.compact
