"""The original and the pruned network, run stage by stage side by side."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.refit.layers import RefitLayer
from onnxpfp.refit.made_again import made_again
from onnxpfp.refit.problem import RefitProblem
from onnxpfp.refit.recurrent_layers import RecurrentLayer
from onnxpfp.refit.stages import Runner, Stages
from onnxpfp.refit.state import RefitState
from onnxpfp.rewrite.apply import apply, renew
from onnxpfp.rewrite.mask import masked
from onnxpfp.runtime.workers import Workers

__all__ = ["StagePair", "most_batches"]


@dataclass(frozen=True, slots=True, eq=False)
class StagePair:
    """The original and the pruned network, run stage by stage side by side.

    Attributes:
        teacher: The original.
        student: The pruned network.
        student_model: Its model, which gets the new weights.
        nodes: An output of every node of the original.
        fitted: Batches of samples to fit; those behind are tuning samples.
        helpers: Threads that share the batches, and the fits.
    """

    teacher: Runner
    student: Runner
    student_model: ModelProto
    nodes: Mapping[int, str]
    fitted: int
    helpers: Workers

    @classmethod
    def of(
        cls,
        refit_state: RefitState,
        layers: Sequence[RefitLayer],
        helpers: Workers,
        carried: Collection[str],
    ) -> StagePair:
        """Stand before the first stage.

        Args:
            refit_state: The network.
            layers: The ops that are refitted.
            helpers: As above.
            carried: Activations that are carried from stage to stage in any case, for they are asked for.
        """
        problem = refit_state.problem
        recurrences = refit_state.recurrences
        placeholders = refit_state.all_edits(layers, recurrences, placeholders=True)
        model, graph, held = problem.analysis.model, problem.analysis.graph, refit_state.held
        student_model = apply(model, graph, held, placeholders, problem.analysis.source.scratch)
        goes = refit_state.keep | ~held
        if not goes.all():
            student_model = masked(student_model, graph, goes, problem.analysis.shapes, held)
        feeds = problem.feeds(problem.fit)
        fitted = len(feeds)
        feeds += problem.feeds(problem.tuning)
        cuts, limit, dtype = {each.output for each in (*layers, *recurrences)}, problem.workspace // 8, problem.dtype
        again = made_again(Stages.of(model, cuts, dtype), problem, layers, limit, carried)
        dtype = {name: kind for name, kind in dtype.items() if name not in again}
        # Batches run side by side; only what is left of the threads works inside of an op.
        threads = max(1, helpers.count // len(feeds))
        teacher, student = (
            Runner.start(Stages.of(each, cuts, dtype), feeds, limit, problem.requests, threads)
            for each in (model, student_model)
        )
        nodes = {index: next(filter(None, node.output)) for index, node in enumerate(model.graph.node)}
        return cls(teacher, student, student.stages.model, nodes, fitted, helpers)

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(self.teacher.stages.stages)

    def advance(
        self, refit_state: RefitState, layers: Sequence[RefitLayer], recurrences: Sequence[RecurrentLayer]
    ) -> None:
        """Run the stage of the pruned network with its new weights, and go on to the stage after."""
        if layers or recurrences:
            renew(
                self.student_model,
                refit_state.problem.analysis.graph,
                refit_state.held,
                refit_state.all_edits(layers, recurrences),
                self.nodes,
            )
        session, given = self.student.open()
        self.student.run_all(session, self.helpers, most_batches(refit_state.problem, given))
        self.teacher.advance()
        self.student.advance()


def most_batches(problem: RefitProblem, shown: Sequence[str], drawn: int = 0) -> int:
    """Return how many batches may be run or wait at a time, so that they take a quarter of the workspace.

    Args:
        problem: What the workspace and the shapes are of.
        shown: Tensors that come out of a run.
        drawn: Numbers that are drawn of one sample.
    """
    numbers = drawn + sum(math.prod(problem.analysis.shapes.shape.get(name, ())) for name in shown)
    return problem.workspace // 4 // max(FLOAT_BYTES * numbers * problem.batch_size, 1)
