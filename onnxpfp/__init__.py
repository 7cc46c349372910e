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
    from onnxpfp.api import Result, prune
    from onnxpfp.inspection import Inspection, inspect
    from onnxpfp.plan import Plan
    from onnxpfp.prunability import sensitivity
    from onnxpfp.report.sensitivity import Sensitivity
    from onnxpfp.saving import save_result

__version__ = "0.1.0"

__all__ = [
    "Inspection",
    "OnnxPfpError",
    "Plan",
    "Result",
    "Sensitivity",
    "__version__",
    "errors",
    "inspect",
    "prune",
    "save_result",
    "sensitivity",
]

_LAZY = {
    "Inspection": "onnxpfp.inspection",
    "Plan": "onnxpfp.plan",
    "Result": "onnxpfp.api",
    "Sensitivity": "onnxpfp.report.sensitivity",
    "inspect": "onnxpfp.inspection",
    "prune": "onnxpfp.api",
    "save_result": "onnxpfp.saving",
    "sensitivity": "onnxpfp.prunability",
}


def __getattr__(name: str) -> object:
    """Load what needs onnx and onnxruntime when it is first used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'onnxpfp' has no attribute '{name}'")
