"""The class of options that each verb takes."""

from __future__ import annotations

from collections.abc import Mapping

from onnxpfp.options import ModelOptions, Options
from onnxpfp.options.factorization import FactorizeOptions
from onnxpfp.options.inspection import InspectOptions
from onnxpfp.options.latency import LatencyOptions
from onnxpfp.options.prunability import PrunabilityOptions
from onnxpfp.options.scores import ScoreOptions
from onnxpfp.options.sparsification import SparsifyOptions
from onnxpfp.options.sweep import SweepOptions
from onnxpfp.options.verification import VerifyOptions

__all__ = ["VERB_OPTIONS"]

VERB_OPTIONS: Mapping[str, type[ModelOptions]] = {
    "prune": Options,
    "sweep": SweepOptions,
    "factorize": FactorizeOptions,
    "sparsify": SparsifyOptions,
    "inspect": InspectOptions,
    "prunability": PrunabilityOptions,
    "verify": VerifyOptions,
    "latency": LatencyOptions,
    "score": ScoreOptions,
}
"""The options that each verb takes."""
