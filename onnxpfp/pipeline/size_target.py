"""Prune until the file takes no more than so many bytes.

The numbers of the weights are counted as a function of the widths (the quantity "size"), but a file has more: nodes,
names, recorded shapes, and weights that it computes from smaller ones. So files are measured as they would be written:
at the narrowest widths, where nothing is refitted, which is the least that can be reached, and after every pruning. Two
of them bracket the budget, at first the narrowest and the original, and the line through them says how many bits to ask
for. Where what comes out has more bytes than the budget, or fewer because they were foreseen wrong, it takes the place
of one of the two, and the network is pruned once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxpfp.comparison.drift import Drift
from onnxpfp.errors import TargetUnreachableError
from onnxpfp.low_rank.split import split
from onnxpfp.model.draws import without_record
from onnxpfp.model.load import LoadedModel
from onnxpfp.model.provenance import provenance_bytes
from onnxpfp.model.save_weights import saved_size
from onnxpfp.pipeline.candidate import Candidate
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.decide import narrowest
from onnxpfp.pipeline.network_steps import MeasuredPart, PrunedNetwork, WrittenNetwork
from onnxpfp.pipeline.selector import Decision
from onnxpfp.pipeline.target_cost import added_biases
from onnxpfp.rewrite import apply
from onnxpfp.rewrite.edits import Edits
from onnxpfp.runtime.memory import amount_text

__all__ = ["prune_to_size", "with_size_met"]

TRIES = 4
"""Prunings at most."""
CLOSE = 0.01
"""Share of the budget; what could be asked for beyond is not worth another pruning."""
ALMOST = 1.0 - 1e-9
"""Share that is asked for at most of what does not fit."""

Write = Callable[[PrunedNetwork], WrittenNetwork]
"""Returns a network as it will be written."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file that was measured.

    Attributes:
        bits: Bits of the weights, as they are counted.
        bytes: Bytes of the file.
    """

    bits: float
    bytes: int

    def bits_for(self, other: _File, budget: int) -> float:
        """Return how many bits fit into a budget, by the line through this file and another one.

        Where they have about as many bytes beside their weights, the more of these are counted on: sizes of messages
        and axes take a byte more from some length on, which is no line.
        """
        bits, size = other.bits - self.bits, other.bytes - self.bytes
        per_byte = bits / size if bits * size > 0 else 8.0
        line = self.bits + (budget - self.bytes) * per_byte
        safe = min(each.bits + 8 * (budget - each.bytes) for each in (self, other))
        return safe if abs(line - safe) < 8 * CLOSE * budget else line


@dataclass(slots=True, eq=False)
class _Search:
    """Two files that bracket a budget, drawn together.

    Attributes:
        budget: The bytes that the file may have.
        least: The file with the narrowest widths, which fits.
        fitting: The largest that fits.
        exceeding: The last that does not, at first the original.
        asked: Bits that the last pruning that fits was asked for; where none does, those of the last.
        found: Whether a pruning fits.
        above: How many prunings in a row did not.
    """

    budget: int
    least: _File
    fitting: _File
    exceeding: _File
    asked: float
    found: bool = False
    above: int = 0

    def following(self, *, last: bool) -> float | None:
        """Return the bits to ask for next; None where another pruning would not bring much, or is the same again.

        Args:
            last: Whether it is the last pruning, which must fit where none did.
        """
        bits = min(self.fitting.bits_for(self.exceeding, self.budget), ALMOST * self.exceeding.bits)
        if self.above > 1:
            # This is no line, such as where a weight that was computed is stored once anything of it goes.
            bits = (self.fitting.bits + bits) / 2
        if last and not self.found:
            bits = self.least.bits
        bits = max(bits, self.least.bits)
        worth = bits - self.asked >= 8 * CLOSE * self.budget if self.found else bits < self.asked
        return bits if worth else None

    def take(self, pruned: _File, asked: float) -> bool:
        """Take note of a pruning that was asked for so many bits; returns whether it is the best so far."""
        if pruned.bytes > self.budget:
            self.exceeding, self.above = pruned, self.above + 1
            if not self.found:
                self.asked = asked
            return False
        better = not self.found or pruned.bytes > self.fitting.bytes
        if better:
            self.fitting = pruned
        self.asked, self.found, self.above = asked, True, 0
        return better


def with_size_met(context: RunContext) -> RunContext:
    """Note whether the file is as small as it shall be, so that nothing has to go."""
    if context.options.keep_size is None or context.options.share:
        return context
    return replace(context, met=_original_bytes(context) <= _budget(context))


def prune_to_size(
    context: RunContext, parts: Sequence[MeasuredPart], prune_to: Callable[[RunContext], PrunedNetwork], write: Write
) -> PrunedNetwork:
    """Prune a network until its file is as small as it shall be, and not much smaller.

    Args:
        context: What is asked for; with a plan, or where nothing has to go, it is pruned once.
        parts: What was measured on the network.
        prune_to: Prunes it to the share of the numbers in the options of a context.
        write: Makes of a pruning what will be written.

    Raises:
        TargetUnreachableError: The file cannot be as small.
    """
    if not context.chooses:
        return prune_to(replace(context, options=context.options.keeping(1.0)))
    source, budget, noted = context.whole.source, _budget(context), _longest_notes(context)

    def file_of(pruned: PrunedNetwork) -> _File:
        return _File(_bits(parts, pruned), _bytes(source, write(pruned), noted))

    least, full = file_of(_narrowest(parts)), sum(each.full for each in parts)
    if least.bytes > budget:
        raise _unreachable(budget, least.bytes, parts)
    search = _Search(budget, least, least, _File(full, _original_bytes(context)), full)
    best: PrunedNetwork | None = None
    for tried in range(TRIES):
        bits = search.following(last=tried == TRIES - 1)
        if bits is None:
            break
        pruned = prune_to(replace(context, options=context.options.keeping(min(bits / full, ALMOST))))
        if search.take(file_of(pruned), bits):
            best = pruned
            if all(decision.keep.all() for decision in pruned.decisions):
                # What costs nothing was enough.
                break
    if best is None:
        raise _unreachable(budget, search.exceeding.bytes, parts)
    return best


def _budget(context: RunContext) -> int:
    """Return the bytes that the file may have."""
    asked = context.options.keep_size
    assert asked is not None
    return int(asked if asked > 1 else asked * context.whole.source.size_bytes)


def _original_bytes(context: RunContext) -> int:
    """Return the bytes that the original takes where it would be written.

    Whole, it is the file that was given; without some of its classes, it says so.
    """
    source = context.whole.source
    notes = 0 if context.classes is None else provenance_bytes(source.given, _longest_notes(context))
    return _stored_bytes(source) + notes


def _stored_bytes(source: LoadedModel) -> int:
    return saved_size(source.given, external=True) if source.external else source.size_bytes


def _bytes(source: LoadedModel, written: WrittenNetwork, noted: Mapping[str, str]) -> int:
    model = without_record(source.completed(written.whole))
    return saved_size(model, external=source.external) + provenance_bytes(model, noted)


def _longest_notes(context: RunContext) -> Mapping[str, str]:
    """Return what the file will say of itself, in at least as many bytes.

    The agreement is not known yet. The target may be asked for again as the bytes that an error names.
    """
    longest = dict(context.provenance.longest(_compared(context)))
    if "target" in longest:
        in_bytes = f"{longest['target'].rpartition(' ')[0]} {_stored_bytes(context.whole.source)}"
        longest["target"] = max(longest["target"], in_bytes, key=len)
    return longest


def _compared(context: RunContext) -> Drift | None:
    """Return what is measured of a file, with the number of samples that it is measured on; None without data."""
    held_out = context.data.held_out
    if not context.provenance.telling:
        return None
    samples = context.data.samples if held_out is None else held_out
    # Whether outputs look like class scores shows in a run.
    few = context.evaluator(samples.take(context.data.batch_size), held_out=held_out is not None)
    return replace(few.compare(context.whole.source.model).drift, samples=len(samples))


def _bits(parts: Sequence[MeasuredPart], pruned: PrunedNetwork) -> float:
    """Count the bits of the weights that are left."""
    return sum(each.cost_after(decision) for each, decision in zip(parts, pruned.decisions, strict=True))


def _narrowest(parts: Sequence[MeasuredPart]) -> PrunedNetwork:
    """Cut every part to its smallest widths and ranks and refit nothing, but add the biases that a refit would add."""
    decisions, candidates = zip(*map(_narrowest_part, parts), strict=True)
    return PrunedNetwork(decisions, candidates, candidates[0])


def _narrowest_part(each: MeasuredPart) -> tuple[Decision, Candidate]:
    context, analysis = each.part.context, each.measured.analysis
    keep, edits = analysis.graph.keep_all(), Edits()
    decision = Decision(keep, keep.astype(np.float64), ())
    if each.part.prunable:
        decision, edits = narrowest(context, each.measured), Edits(inputs=added_biases(context, each.measured))
    model = split(apply(analysis.model, analysis.graph, decision.keep, edits, analysis.source.scratch), decision.ranked)
    return decision, Candidate(model, model, decision.keep, None)


def _unreachable(budget: int, least: int, parts: Sequence[MeasuredPart]) -> TargetUnreachableError:
    """Say that no file was small enough, and what can be asked for."""
    lower = sum(each.single for each in parts) < sum(each.least for each in parts)
    return TargetUnreachableError(
        f"the target is a file of {_text(budget)}, but {_text(least)} is the least that can be reached",
        hint=f"{'lower --round-to or --min-channels, or ' if lower else ''}ask for {least:,} bytes or more",
    )


def _text(size: int) -> str:
    return f"{amount_text(size)} ({size:,} bytes)" if size >= 1000 else f"{size} bytes"
