"""Fold the mean of what was dropped into the consumers' biases.

Adding what `linear.bias.mean_shift` says back to the bias leaves the mean of every output over data and positions as it
was (the least-squares intercept; docs/design.md, "Compensation").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxpfp.arrays import Floats
from onnxpfp.calibrate.statistics import Statistics
from onnxpfp.channels import Analysis
from onnxpfp.linear.bias import BiasEditor, mean_shift
from onnxpfp.linear.describe import op_key
from onnxpfp.linear.ops import LinearOp
from onnxpfp.rewrite.edits import Edits

__all__ = ["Compensation", "Record", "fold_means"]


@dataclass(frozen=True, slots=True, eq=False)
class Compensation:
    """The biases that means were folded into, and the consumers where that failed.

    Attributes:
        edits: New biases, together with the edits that were there before.
        folded: Consumers whose bias changed.
        left: Consumers that lost channels without compensation, with the reason.
        refits: What became of every linear op that was refitted, front to back.
        merged: Consumers whose weights took over channels that are like some that stay.
        fitted: Consumers that were fitted to their own outputs in the original network, with nothing run.
    """

    edits: Edits
    folded: tuple[str, ...]
    left: tuple[tuple[str, str], ...]
    refits: tuple[Record, ...] = ()
    merged: tuple[str, ...] = ()
    fitted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """The gain of one refit.

    Attributes:
        name: The linear op, or the recurrence.
        before: Error of its output on the tuning samples without refit, as a share of the output's variance.
        after: The same with it; never more.
        ridge: Share of the mean input variance that was chosen as ridge; infinity where the weights stayed.
        joint: Whether it was refitted for the ops that read it, together with them: the errors are those of their
            outputs then, in the mean over them, before with only them refitted. Of several sweeps it is before the
            first and after the last one, so that other layers have changed between.
        recurrent: Whether it is a recurrence: the errors are what a linear map cannot tell, from the states that are
            left, of all states that the original has, as a share of their variance. The ridge is the largest of
            those of its gates.
    """

    name: str
    before: float
    after: float
    ridge: float
    joint: bool = False
    recurrent: bool = False


def fold_means(
    analysis: Analysis,
    ops: tuple[LinearOp, ...],
    statistics: Statistics,
    factor: Floats,
    edits: Edits,
    chosen: Sequence[int] | None = None,
) -> Compensation:
    """Fold the mean of what goes into the biases of all consumers that read it.

    Args:
        analysis: The model.
        ops: Its consumers as linear ops.
        statistics: Their input means.
        factor: Factor by channel id, (channels + 1,): 0 for dropped, 1 for kept, other where reweighted.
        edits: Edits made before, which are kept.
        chosen: Positions of the consumers to do so with; None is all.
    """
    editor = BiasEditor.of(analysis, edits)
    for position in range(len(ops)) if chosen is None else chosen:
        consumer, op = analysis.graph.consumers[position], ops[position]
        if (factor[consumer.channels] == 1).all():
            continue
        if op.weight is None:
            what = "its weights are no plain matrix" if consumer.constant else "both operands are activations"
            editor.left.append((consumer.name, what))
            continue
        mean = statistics[op_key(position)].patch_mean
        editor.fold(consumer, mean_shift(op, mean, factor))
    return Compensation(editor.edits, tuple(editor.folded), tuple(editor.left))
