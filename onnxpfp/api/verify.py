"""Verify a model: hold any file against the original that it was made from, whatever made it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxpfp.api.keywords import PROGRESS, documented, keywords
from onnxpfp.api.model_comparison import compare_models
from onnxpfp.data.sources import SampleSource
from onnxpfp.model.load import ModelSource, load
from onnxpfp.options.verification import VerifyOptions
from onnxpfp.pipeline.context import open_run
from onnxpfp.pipeline.plan import Plan
from onnxpfp.progress import Progress
from onnxpfp.report.verification import VerificationReport
from onnxpfp.runtime.blas import one_blas_thread
from onnxpfp.runtime.session import custom_ops

__all__ = ["VerifyArguments", "verify", "verify_with"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifyArguments(VerifyOptions):
    """Arguments of `verify` behind the original: the other model, options, and what only programs give."""

    pruned: ModelSource = field(kw_only=False, metadata=documented("The model to verify: a path or a model object."))
    calibration: SampleSource | None = field(
        default=None, metadata=documented("Samples to compare the outputs on, as in `onnxpfp.prune`; None is noise.")
    )
    plan: Plan | str | os.PathLike[str] | None = field(
        default=None, metadata=documented("The plan by which it is said to be pruned.")
    )
    progress: Progress | None = field(default=None, metadata=documented(PROGRESS))


@keywords(VerifyArguments)
def verify(original: ModelSource, arguments: VerifyArguments) -> VerificationReport:
    """Hold a model against the original that it was made from.

    What does not pass is listed in the report (`problems`), and raises nothing.

    Args:
        original: A path or a model object; neither model is changed.
        arguments: Its keywords.

    Raises:
        OnnxPfpError: Something is wrong with a model, the data, the plan or the options; its children in
            `onnxpfp.errors` say which.
    """
    plan = arguments.plan
    if plan is not None and not isinstance(plan, Plan):
        plan = Plan.read(Path(plan))
    return verify_with(
        original, arguments.pruned, arguments.calibration, arguments, plan=plan, progress=arguments.progress
    )


def verify_with(
    original: ModelSource,
    pruned: ModelSource,
    calibration: SampleSource | None,
    asked: VerifyOptions,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> VerificationReport:
    """Verify a model with validated options; the command line comes in here.

    Args:
        original: A path or a model object.
        pruned: The other model, likewise.
        calibration: Samples, or None for noise.
        asked: How to run both, and what does not pass.
        plan: The plan by which the other model is said to be pruned.
        progress: Told how far it is.

    Raises:
        OnnxPfpError: As in `verify`.
    """
    with custom_ops(asked.custom_ops), one_blas_thread():
        context = open_run(
            original,
            "random" if calibration is None else calibration,
            asked.running(),
            (),
            plan=plan,
            progress=progress,
            decides=False,
        )
        # What the plan says of classes has gone by now; the rest is compared, not replayed.
        context = replace(context, plan=None)
        with context.clock.phase("load"):
            other = load(pruned)
        return compare_models(context, other, asked, plan)
