"""Sampled rows of the linear ops of one stage: columns of what each reads, with targets, at random output positions.

Ops that see the same columns draw them together. `ridge.py` fits weights to the rows and has the ridges that are tried;
`sweep.py` goes through the stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxpfp.arrays import AnyFloats, Arrays, Floats, Floats32, Ints
from onnxpfp.linear.columns import columns, draw_positions, outputs_at
from onnxpfp.low_rank.limit import RankLimit
from onnxpfp.refit.best_fit import Fit, best_fit
from onnxpfp.refit.by_channel import ChannelRegression
from onnxpfp.refit.cache import SpillCache
from onnxpfp.refit.initial import InitialWeights
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.low_rank_fit import limited_fit, low_rank_fit
from onnxpfp.refit.moments import Moments, Piece, by_group
from onnxpfp.refit.ridge import GramFactors, by_columns
from onnxpfp.refit.rows import RowBatch, SampledRows
from onnxpfp.refit.state import RefitState
from onnxpfp.runtime.workers import ALONE, Workers

__all__ = ["LayerFamily", "LayerRows", "fits_together", "layer_families"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerRows:
    """The rows of one op, and its fit.

    Attributes:
        layer: The op.
        start: Its weights before the refit.
        stays: Which of its outputs stay, (O,).
        reached: Whether the stage computes the tensor that `layer.target` compares; else the output of the op is.
        fitted: Rows of the samples to fit.
        tuning: Rows of the tuning samples.
        factors: Of the fitted columns, about the mean and about zero; the ops of a family share them.
        channels: The regression by channels, where the columns are too many for a Gram matrix.
        limit: The rank that its weights may have; None leaves them free.
    """

    layer: RefitLayer
    start: InitialWeights
    stays: NDArray[np.bool_]
    reached: bool
    fitted: SampledRows
    tuning: SampledRows
    factors: Mapping[bool, GramFactors]
    channels: ChannelRegression | None
    limit: RankLimit | None = None

    def shows(self) -> set[str]:
        """Return the tensors of the original that the targets are computed from."""
        if not self.reached:
            return {self.layer.output}
        whole = self.layer.target.scale[self.stays].all()
        return {self.layer.target.tensor} if whole else {self.layer.target.tensor, self.layer.output}

    def targets(self, shown: Arrays, given: Arrays, positions: Ints) -> tuple[Floats, Floats | None]:
        """Return the wanted outputs at positions, (T, O'), and the outputs at which the ReLU behind starts to pass.

        Args:
            shown: Activations of the original.
            given: Activations of the pruned network.
            positions: (N, P) flat indices.
        """
        layer, regression_target, stays = self.layer, self.layer.target, self.stays
        if not self.reached:
            return outputs_at(shown[layer.output], layer.axis, positions)[:, stays], None
        whole = shown[regression_target.tensor]
        wanted, other = outputs_at(whole, layer.axis, positions)[:, stays], regression_target.offset[stays]
        if regression_target.shortcut:
            shortcut = given[regression_target.shortcut]
            # Its channels are those that stay; along other axes it may be one for all.
            shape = list(whole.shape)
            shape[layer.axis] = shortcut.shape[layer.axis]
            other = other + outputs_at(np.broadcast_to(shortcut, shape), layer.axis, positions)
        alive = regression_target.scale[stays] != 0.0
        scale = np.where(alive, regression_target.scale[stays], 1.0)
        target = (wanted - other) / scale
        if not alive.all():
            target = np.where(alive, target, outputs_at(shown[layer.output], layer.axis, positions)[:, stays])
        threshold = (
            np.broadcast_to(np.where(alive, -other / scale, 0.0), target.shape) if regression_target.rectified else None
        )
        return target, threshold

    def rows(self, shown: Arrays, given: Arrays, positions: Ints, *, tuning: bool) -> tuple[Floats32, Floats32 | None]:
        """Return wanted outputs and thresholds at positions as in `RowBatch`; arguments as those of `targets`."""
        wanted, threshold = map(self._by_group, self.targets(shown, given, positions))
        assert wanted is not None
        # Without Gram matrix the fit is not repeated with other targets.
        return wanted, threshold if tuning or self.channels is None else None

    def _by_group(self, outputs: Floats | None) -> Floats32 | None:
        if outputs is None:
            return None
        return _single(outputs).reshape(len(outputs), *self.start.weights.shape[:2])

    def fit(self) -> Fit:
        """Fit the op's weights to the rows, at the best ridge."""
        fitted, tuning, start = self.fitted, self.tuning, self.start
        if self.channels is not None:
            solver = self.channels.solver(fitted.moments, start)
            if self.limit is not None:
                return limited_fit(self.limit, solver, self.channels.input_moments, fitted, tuning, start)
            return best_fit(solver, fitted, tuning, start)
        regression = by_columns(fitted.moments, start, self.factors[start.biased])
        if self.limit is not None:
            return low_rank_fit(self.limit, regression, fitted, tuning, start)
        return best_fit(regression.at, fitted, tuning, start, regression.towards)

    def spread(self) -> float:
        """Return the variance of the targets on the tuning samples, summed over the outputs; never 0."""
        m = self.tuning.moments
        square = float(m.tt.sum()) / m.count
        return max(square - float(np.square(m.t / m.count).sum()), TINY * square, 1e-30)

    def free(self) -> None:
        """Drop the rows."""
        self.fitted.free()
        self.tuning.free()


FEW_ROWS = 2
"""So many tuning rows for every column, or fewer, are kept, for errors cost less by them than by the Gram matrix."""
FAR_MORE = 8
"""So many times the columns, or more, the outputs of a draw set how long it waits: a layer has thousands of classes."""
TINY = 1e-9
"""Share of the mean square of outputs that rounding makes of their variance where they are constant."""


def _single(array: Floats) -> NDArray[np.float32]:
    """Round to float32; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class TargetDraw:
    """What a family drew from one batch of the original: all but the columns.

    Attributes:
        tuning: Whether it is of tuning samples.
        whole: Shape of the outputs.
        positions: Flat output positions, (N, P).
        rows: As in `Draw`.
        mixed: The channels of the original, (T', C), and their positions, (N, P), where these are fitted.
    """

    tuning: bool
    whole: tuple[int, ...]
    positions: Ints
    rows: tuple[tuple[Floats32, Floats32 | None], ...]
    mixed: tuple[AnyFloats, Ints] | None


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What a family drew from one batch, or from several.

    Attributes:
        tuning: Whether they are of tuning samples.
        columns: u, (T, g, n) float32.
        rows: The wanted outputs of each op and the outputs at which the ReLU behind starts to pass, as in `RowBatch`.
        mixed: The channels of the original and of the pruned network, (T', C) and (T', S), where these are fitted.
    """

    tuning: bool
    columns: Floats32
    rows: tuple[tuple[Floats32, Floats32 | None], ...]
    mixed: tuple[AnyFloats, AnyFloats] | None

    @property
    def nbytes(self) -> int:
        """Bytes of the columns, or an eighth of those of the outputs, where these are far more numbers."""
        outputs = sum(wanted.nbytes + (0 if threshold is None else threshold.nbytes) for wanted, threshold in self.rows)
        return max(self.columns.nbytes, outputs // FAR_MORE)

    @classmethod
    def joined(cls, draws: Sequence[Self]) -> Self:
        """Return one draw of several, in their order."""
        first = draws[0]
        if len(draws) == 1:
            return first
        rows: list[tuple[Floats32, Floats32 | None]] = []
        for number, (_, threshold) in enumerate(first.rows):
            wanted = np.concatenate([draw.rows[number][0] for draw in draws])
            parts = [] if threshold is None else [draw.rows[number][1] for draw in draws]
            rows.append((wanted, np.concatenate([part for part in parts if part is not None]) if parts else None))
        pairs = [draw.mixed for draw in draws if draw.mixed is not None]
        mixed = tuple(np.concatenate(side) for side in zip(*pairs, strict=True)) if pairs else None
        return cls(first.tuning, np.concatenate([draw.columns for draw in draws]), tuple(rows), cast("Any", mixed))


@dataclass(frozen=True, slots=True, eq=False)
class LayerFamily:
    """Ops that see the same columns: of the same data, through the same window.

    Attributes:
        members: The rows of each op; all share the sums over the columns of the first one.
        positions: Output positions that are drawn of one sample.
    """

    members: tuple[LayerRows, ...]
    positions: int

    @property
    def columns(self) -> int:
        """Numbers in the columns of one sample, at most."""
        groups, _, inputs = self.members[0].start.weights.shape
        return self.positions * groups * inputs

    def draw_targets(
        self, shown: Arrays, given: Arrays, original: Arrays, rng: np.random.Generator, *, tuning: bool
    ) -> TargetDraw | None:
        """Draw positions in one batch, and what the ops should give there; None where a tensor is empty.

        Args:
            shown: Activations that the stage of the original computes.
            given: Activations of the pruned network before the stage.
            original: Activations of the original before the stage.
            rng: Source of the positions.
            tuning: Whether it is a batch of tuning samples.
        """
        first = self.members[0]
        layer = first.layer
        whole = shown[next(iter(first.shows()))].shape
        if not self._fits(given, whole):
            return None
        positions = draw_positions(whole, layer.axis, self.positions, rng)
        rows = tuple(member.rows(shown, given, positions, tuning=tuning) for member in self.members)
        mixed: tuple[AnyFloats, Ints] | None = None
        if first.channels is not None and not tuning:
            data = original[layer.consumer.data]
            places = draw_positions(data.shape, 1, self.positions, rng)
            mixed = outputs_at(data, 1, places), places
        return TargetDraw(tuning, whole, positions, rows, mixed)

    def _fits(self, given: Arrays, whole: tuple[int, ...]) -> bool:
        """Tell whether there is anything to draw; what does not belong together is not fitted."""
        layer = self.members[0].layer
        data = given[layer.consumer.data].shape
        if 0 in (*whole, *data):
            return False
        if fits_together(layer, data, whole):
            return True
        for member in self.members:
            member.fitted.finite = member.tuning.finite = False
        return False

    def draw(self, targets: TargetDraw | None, given: Arrays) -> Draw | None:
        """Draw the columns of one batch.

        Args:
            targets: Where, and what goes with them; None where there was nothing to draw.
            given: Activations of the pruned network before the stage.
        """
        if targets is None:
            return None
        first = self.members[0]
        layer, positions = first.layer, targets.positions
        spatial = targets.whole[2:] if layer.op.kind != "matmul" else ()
        groups, _, inputs = first.start.weights.shape
        if inputs:
            flat = columns(layer.op, given[layer.consumer.data], spatial, positions)
            u = flat.reshape(len(flat), groups, -1)
        else:
            u = np.zeros((positions.size, groups, 0), np.float32)
        mixed: tuple[AnyFloats, AnyFloats] | None = None
        if targets.mixed is not None:
            original, places = targets.mixed
            mixed = original, outputs_at(given[layer.consumer.data], 1, places)
        return Draw(targets.tuning, u, targets.rows, mixed)

    def take(self, draw: Draw) -> list[Piece]:
        """Keep what was drawn, and return what is left to do to count it in."""
        # Where errors come from the rows, the sums only go to those of the fitted rows in the end.
        precise = draw.tuning and not all(member.tuning.kept for member in self.members)
        u = by_group(draw.columns, precise=precise) if np.isfinite(draw.columns).all() else None
        pieces: list[Piece] = []
        for member, rows in zip(self.members, draw.rows, strict=True):
            pieces += (member.tuning if draw.tuning else member.fitted).take(RowBatch(draw.columns, *rows), u)
            if draw.mixed is not None:
                assert member.channels is not None
                pieces += member.channels.take(*draw.mixed)
        return pieces


def fits_together(layer: RefitLayer, data: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Tell whether every output belongs to the data at the same place, which a shortcut of more samples breaks."""
    if layer.op.kind != "matmul":
        return data[0] == whole[0]
    return data[: layer.op.axis] + data[layer.op.axis + 1 :] == whole[:-1]


def layer_families(
    refit_state: RefitState,
    layers: Sequence[RefitLayer],
    starts: Mapping[str, InitialWeights],
    made: set[str],
    given: Arrays,
    helpers: Workers,
) -> list[LayerFamily]:
    """Group the ops of a stage that see the same columns, with no rows yet.

    Args:
        refit_state: The network.
        layers: The ops.
        starts: Their weights before the refit, by output.
        made: Tensors that the stage of the original computes.
        given: Activations of the pruned network before the stage.
        helpers: Threads for the fits; where there are several ops, each is fitted by one.
    """
    families: dict[tuple[object, ...], list[RefitLayer]] = {}
    for layer in layers:
        shape = starts[layer.output].weights.shape
        families.setdefault((*layer.columns_key, shape[0], shape[2]), []).append(layer)
    spill = SpillCache(refit_state.problem.workspace // 4)
    layer_lists: list[LayerFamily] = []
    for same in families.values():
        reached = [t.target.tensor in made and (not t.target.shortcut or t.target.shortcut in given) for t in same]
        ops = [(t, starts[t.output], r) for t, r in zip(same, reached, strict=True)]
        members = _members(refit_state, ops, spill, ALONE if len(layers) > 1 else helpers)
        drawn = refit_state.problem.positions_for(starts[same[0].output].weights.shape[2])
        layer_lists.append(LayerFamily(members, drawn))
    return layer_lists


def _members(
    refit_state: RefitState,
    ops: Sequence[tuple[RefitLayer, InitialWeights, bool]],
    spill: SpillCache,
    helpers: Workers,
) -> tuple[LayerRows, ...]:
    """Return ops that see the same columns, with no rows yet."""
    groups, _, inputs = ops[0][1].weights.shape
    # Where an op has one tap, its channels are its columns.
    narrow = ops[0][0].op.kernel_size == 1 or refit_state.problem.fits(inputs, groups)
    few = refit_state.problem.positions_for(inputs) * len(refit_state.problem.tuning) <= FEW_ROWS * inputs
    kept = [not narrow or few or (reached and layer.target.rectified) for layer, _, reached in ops]
    fitted = Moments.empty(groups, inputs, 0, gram=narrow)
    tuning = Moments.empty(groups, inputs, 0, gram=narrow)
    moments = [Moments.beside(fitted, start.weights.shape[1]) for _, start, _ in ops]
    factors = {centred: GramFactors(moments[0], centred) for centred in (True, False)}
    rows = partial(SampledRows, spill=spill, helpers=helpers)
    return tuple(
        LayerRows(
            layer,
            start,
            refit_state.keep[layer.rows],
            reached,
            rows(moments[number], beside=number > 0),
            rows(Moments.beside(tuning, start.weights.shape[1]), beside=number > 0, kept=kept[number]),
            factors,
            None if narrow else ChannelRegression.of(layer, layer.taps(), refit_state.keep),
            refit_state.limits.get(layer.output),
        )
        for number, (layer, start, reached) in enumerate(ops)
    )
