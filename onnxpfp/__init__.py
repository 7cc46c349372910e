"""onnxpfp: provable filter pruning of ONNX graphs.

>>> import onnxpfp
>>> result = onnxpfp.prune("in.onnx", calibration="calibration.npz", keep_macs=0.6)
>>> result.model, result.plan, result.report
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxpfp import errors
from onnxpfp.errors import OnnxPfpError

if TYPE_CHECKING:
    from onnxpfp.api.doctor import doctor
    from onnxpfp.api.factorize import FactorizeResult, factorize
    from onnxpfp.api.inspect import inspect
    from onnxpfp.api.latency import latency
    from onnxpfp.api.prunability import prunability
    from onnxpfp.api.prune import Result, prune
    from onnxpfp.api.save import save_result
    from onnxpfp.api.save_report import save_report
    from onnxpfp.api.sparsify import SparsifyResult, sparsify
    from onnxpfp.api.sweep import SweepResult, sweep
    from onnxpfp.api.verify import verify
    from onnxpfp.pipeline.plan import Plan
    from onnxpfp.pipeline.sparse_plan import SparsePlan
    from onnxpfp.report.doctor import DoctorReport
    from onnxpfp.report.factorization import FactorizationReport
    from onnxpfp.report.inspection import Inspection
    from onnxpfp.report.latency_table import LatencyReport
    from onnxpfp.report.prunability import PrunabilityReport
    from onnxpfp.report.sparsity import SparsityReport
    from onnxpfp.report.sweep import SweepReport
    from onnxpfp.report.verification import VerificationReport
    from onnxpfp.report.weight_prunability import WeightPrunabilityReport
    from onnxpfp.score.criterion import Criterion
    from onnxpfp.score.group_data import GroupData

__version__ = "0.1.0"

__all__ = [
    "Criterion",
    "DoctorReport",
    "FactorizationReport",
    "FactorizeResult",
    "GroupData",
    "Inspection",
    "LatencyReport",
    "OnnxPfpError",
    "Plan",
    "PrunabilityReport",
    "Result",
    "SparsePlan",
    "SparsifyResult",
    "SparsityReport",
    "SweepReport",
    "SweepResult",
    "VerificationReport",
    "WeightPrunabilityReport",
    "__version__",
    "doctor",
    "errors",
    "factorize",
    "inspect",
    "latency",
    "prunability",
    "prune",
    "save_report",
    "save_result",
    "sparsify",
    "sweep",
    "verify",
]

_LAZY = {
    "Criterion": "onnxpfp.score.criterion",
    "DoctorReport": "onnxpfp.report.doctor",
    "doctor": "onnxpfp.api.doctor",
    "FactorizationReport": "onnxpfp.report.factorization",
    "FactorizeResult": "onnxpfp.api.factorize",
    "GroupData": "onnxpfp.score.group_data",
    "Inspection": "onnxpfp.report.inspection",
    "LatencyReport": "onnxpfp.report.latency_table",
    "Plan": "onnxpfp.pipeline.plan",
    "Result": "onnxpfp.api.prune",
    "PrunabilityReport": "onnxpfp.report.prunability",
    "VerificationReport": "onnxpfp.report.verification",
    "WeightPrunabilityReport": "onnxpfp.report.weight_prunability",
    "factorize": "onnxpfp.api.factorize",
    "inspect": "onnxpfp.api.inspect",
    "latency": "onnxpfp.api.latency",
    "prune": "onnxpfp.api.prune",
    "SparsePlan": "onnxpfp.pipeline.sparse_plan",
    "SparsifyResult": "onnxpfp.api.sparsify",
    "SparsityReport": "onnxpfp.report.sparsity",
    "sparsify": "onnxpfp.api.sparsify",
    "save_report": "onnxpfp.api.save_report",
    "SweepReport": "onnxpfp.report.sweep",
    "SweepResult": "onnxpfp.api.sweep",
    "sweep": "onnxpfp.api.sweep",
    "save_result": "onnxpfp.api.save",
    "prunability": "onnxpfp.api.prunability",
    "verify": "onnxpfp.api.verify",
}


def __dir__() -> list[str]:
    """List the public names, those included that are loaded when they are first used."""
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Load what needs onnx and onnxruntime when it is first used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'onnxpfp' has no attribute '{name}'")
