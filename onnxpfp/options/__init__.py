"""Options, each declared once: type, default, flag, help, choices and check.

The click options, the keywords of the Python API, the validation and the table in `docs/options.md` are made from these
fields. The class that a field stands in says which verbs take it:

    ModelOptions            any verb (`run.py`, with the next two)
    ScopeOptions            inspect, latency, prunability, prune, score, sweep
    RunOptions              prune, prunability, sweep
    SampledRunOptions       any verb that runs the network on samples (`sampled_run.py`)
    PruningOptions          prune, sweep (`pruning.py`), with those of `--score feature-statistics` (`features.py`), of
                            classes (`classes.py`) and the shares of layers (`shares.py`)
    Options                 prune

Those of `data.py` are of every verb that reads data. What one other verb alone takes stands in a file of its own
(`factorization.py`, `inspection.py`, `latency.py`, `prunability.py`, `scores.py`, `sparsification.py`, `sweep.py`,
`verification.py`), and `verbs.py` has the class of every verb. `declaration.py` says what an option is, `checks.py`
what its values may be.
"""

from onnxpfp.options.pruning import DEFAULT_KEEP_MACS, UNKNOWN, Options, PruningOptions
from onnxpfp.options.run import (
    SCORES,
    AllocationRule,
    ModelOptions,
    RunOptions,
    ScopeOptions,
    WidthRule,
)
from onnxpfp.options.sampled_run import DEFAULT_WORKSPACE

__all__ = [
    "DEFAULT_KEEP_MACS",
    "DEFAULT_WORKSPACE",
    "SCORES",
    "UNKNOWN",
    "AllocationRule",
    "ModelOptions",
    "Options",
    "PruningOptions",
    "RunOptions",
    "ScopeOptions",
    "WidthRule",
]
