"""Find out what is installed here, what of it works, and what CUDA lacks."""

from __future__ import annotations

import importlib
import platform
from dataclasses import replace
from typing import Any

import onnxpfp
from onnxpfp.installation import (
    ProviderState,
    SupportedFiles,
    broken_packages,
    clashing_runtimes,
    installed_runtimes,
    installed_versions,
)
from onnxpfp.report.doctor import DoctorReport, Problem

__all__ = ["doctor"]


def doctor(providers: str = "cpu") -> DoctorReport:
    """Find out what works. A small network runs on every execution provider, each in a process of its own.

    Args:
        providers: Those that must work, as for the option of this name: one that does not is a problem.

    Returns:
        Versions, providers, the newest files that can be read, and all problems.

    Raises:
        ProviderError: A name is unknown.
    """
    runtimes = installed_runtimes()
    problems = [Problem(*found) for found in (clashing_runtimes(runtimes),) if found]
    broken = [Problem(*found) for found in broken_packages()]
    report = DoctorReport(
        versions={"onnxpfp": onnxpfp.__version__, "python": platform.python_version(), **installed_versions()},
        platform=platform.platform(),
        device=platform.processor() or platform.machine(),
        runtimes=tuple(runtimes),
        providers=(),
        written=None,
        loaded=None,
        cuda="not known, for a package does not work",
        problems=(*problems, *broken),
    )
    return report if broken else _tried(report, providers)


def _tried(report: DoctorReport, providers: str) -> DoctorReport:
    """Add what can be found out where all packages can be loaded."""
    # These load onnx and onnxruntime.
    from onnxpfp.runtime.machine import device_name
    from onnxpfp.runtime.provider_trial import newest_supported, try_provider
    from onnxpfp.runtime.providers import CPU, explain_missing, resolve_providers

    onnx, runtime = (_module(name) for name in ("onnx", "onnxruntime"))
    wanted = {request.name: request for request in resolve_providers(providers)}
    states = tuple(try_provider(name) for name in runtime.get_available_providers())
    unusable = [state for state in states if not state.works and state.name in {CPU, *wanted}]
    problems = [Problem(f"{state.name} does not work: {state.reason}", state.hint) for state in unusable]
    known = {state.name: state for state in states}
    absent = [explain_missing(request, in_build=False) for name, request in wanted.items() if name not in known]
    problems += [Problem(str(error), error.hint) for error in absent]
    return replace(
        report,
        device=device_name(),
        providers=states,
        written=SupportedFiles(int(onnx.defs.onnx_opset_version()), int(onnx.IR_VERSION)),
        loaded=newest_supported() if CPU in known and known[CPU].works else None,
        cuda=_lacking(states),
        problems=(*report.problems, *problems),
    )


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _lacking(states: tuple[ProviderState, ...]) -> str:
    """Say what CUDA lacks; empty where it works."""
    cuda = next((state for state in states if state.name == "CUDAExecutionProvider"), None)
    if cuda is None:
        return "the installed onnxruntime was built without it"
    return cuda.reason.rpartition("cannot run here: ")[2]
