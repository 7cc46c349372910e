"""`onnxpfp.doctor`: what is found out about an installation, and what of it counts as broken."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest

import onnxpfp
from onnxpfp import installation
from onnxpfp.errors import ProviderError
from onnxpfp.installation import ProviderState, broken_packages, clashing_runtimes, installed_runtimes
from onnxpfp.runtime import provider_trial
from onnxpfp.runtime.provider_trial import newest_supported, try_provider

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> dict[str, ProviderState]:
    """Providers of a made-up onnxruntime, which work unless something else is put in here."""
    states = {CUDA: ProviderState(CUDA, True), CPU: ProviderState(CPU, True)}
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(states))
    monkeypatch.setattr(provider_trial, "try_provider", lambda name: states[name])
    return states


def test_here_everything_that_is_needed_works() -> None:
    report = onnxpfp.doctor()
    assert report.healthy, report.problems
    assert report.versions["onnx"] == onnx.__version__
    assert report.versions[report.runtimes[0]] == ort.__version__
    assert list(report.versions)[:2] == ["onnxpfp", "python"]
    states = {state.name: state for state in report.providers}
    assert list(states) == ort.get_available_providers()
    assert (states[CPU].works, states[CPU].reason) == (True, "")
    assert all(bool(state.reason) != state.works for state in report.providers)


def test_the_newest_files_are_those_that_a_session_loads() -> None:
    found = newest_supported()

    def loads(opset: int, ir_version: int) -> bool:
        graph = onnx.parser.parse_graph("g (float[2] x) => (float[2] y) { y = Abs(x) }")
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version
        )
        try:
            ort.InferenceSession(model.SerializeToString(), providers=[CPU])
        except Exception:
            return False
        return True

    assert loads(found.opset, found.ir_version)
    assert not loads(found.opset + 1, found.ir_version)
    assert not loads(found.opset, found.ir_version + 1)


def test_a_provider_that_cannot_start_says_why() -> None:
    state = try_provider("NoSuchExecutionProvider")
    assert (state.name, state.works) == ("NoSuchExecutionProvider", False)
    assert "unknown execution provider" in state.reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process crashed (SIGSEGV)"),
        ("print('noise'); print('more')", "the trial failed: it said nothing"),
        ("raise RuntimeError('no licence')", "the trial failed: RuntimeError: no licence"),
        ("import time; time.sleep(60)", "it has not started within 0.5 s"),
    ],
)
def test_a_provider_may_crash_or_hang(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **more: run([sys.executable, "-c", program], **more))
    if "sleep" in program:
        monkeypatch.setattr(provider_trial, "SECONDS", 0.5)
    assert try_provider(CUDA) == ProviderState(CUDA, False, reason)


def test_what_a_library_prints_before_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    run, line = subprocess.run, json.dumps({"name": CUDA, "works": True, "reason": "", "hint": ""})
    program = f"print('EP Error ...'); print({line!r})"
    monkeypatch.setattr(subprocess, "run", lambda command, **more: run([sys.executable, "-c", program], **more))
    assert try_provider(CUDA) == ProviderState(CUDA, True)


def test_a_network_that_runs_elsewhere_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SimpleNamespace(providers=(CPU,), run=lambda feed: {"y": feed["x"]})
    monkeypatch.setattr(provider_trial, "open_session", lambda *_, **__: session)
    assert provider_trial._trial(CUDA).reason == f"it ran on {CPU} instead"
    assert provider_trial._trial(CPU).reason == "its results are wrong"


def test_only_what_is_asked_for_must_work(tried: dict[str, ProviderState]) -> None:
    tried[CUDA] = ProviderState(CUDA, False, f"{CUDA} was asked for, but cannot run here: cuDNN 9 is missing", "get it")
    report = onnxpfp.doctor()
    assert (report.healthy, report.cuda) == (True, "cuDNN 9 is missing")
    asked = onnxpfp.doctor(providers="cuda,cpu")
    assert [problem.text for problem in asked.problems] == [f"{CUDA} does not work: {tried[CUDA].reason}"]
    assert asked.problems[0].hint == "get it"
    tried[CUDA] = ProviderState(CUDA, True)
    assert (onnxpfp.doctor(providers="cuda").healthy, onnxpfp.doctor().cuda) == (True, "")


def test_a_provider_that_the_build_lacks_is_a_problem_where_it_is_asked_for(tried: dict[str, ProviderState]) -> None:
    del tried[CUDA]
    report = onnxpfp.doctor(providers="cuda")
    assert [problem.text for problem in report.problems] == [
        f"cuda was asked for, but the installed onnxruntime has no {CUDA}"
    ]
    assert (onnxpfp.doctor().healthy, onnxpfp.doctor().cuda) == (True, "the installed onnxruntime was built without it")
    with pytest.raises(ProviderError, match="unknown execution provider"):
        onnxpfp.doctor(providers="cudda")


def test_the_cpu_must_work(tried: dict[str, ProviderState]) -> None:
    tried[CPU] = ProviderState(CPU, False, "the process crashed (SIGILL)")
    report = onnxpfp.doctor()
    assert [problem.text for problem in report.problems] == [f"{CPU} does not work: the process crashed (SIGILL)"]
    assert report.loaded is None


def _installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda: [SimpleNamespace(name=name) for name in names])


@pytest.mark.parametrize(
    ("names", "runtimes"),
    [
        (["onnxruntime", "numpy", "onnxruntime_gpu"], ["onnxruntime", "onnxruntime-gpu"]),
        (["OnnxRuntime.DirectML", "onnxruntime-extensions", "onnxruntime-genai"], ["onnxruntime-directml"]),
        (["onnx", None], []),
    ],
)
def test_packages_that_bring_onnxruntime(
    names: list[str], runtimes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(monkeypatch, *names)
    assert installed_runtimes() == runtimes


def test_two_of_them_are_a_problem(tried: dict[str, ProviderState], monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    (problem,) = onnxpfp.doctor().problems
    assert problem.text == "onnxruntime and onnxruntime-gpu are installed at once and overwrite each other's files"
    assert problem.hint == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    assert clashing_runtimes(["onnxruntime"]) is None
    assert clashing_runtimes([]) is None


def test_a_package_that_cannot_be_loaded_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def failing(name: str, *more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("libfoo.so.1: cannot open shared object file")
        return SimpleNamespace() if name == "onnx" else load(name, *more)

    monkeypatch.setattr(installation.importlib, "import_module", failing)
    _installed(monkeypatch, "onnxruntime-gpu")
    found = dict(broken_packages())
    assert found == {
        "onnx is there but empty, as after uninstalling one of two packages that bring it": (
            "pip install --force-reinstall onnx"
        ),
        "onnxruntime cannot be loaded: ImportError: libfoo.so.1: cannot open shared object file": (
            "pip install onnxruntime-gpu"
        ),
    }
    report = onnxpfp.doctor()
    assert (report.providers, report.loaded, len(report.problems)) == ((), None, 2)


def test_it_needs_no_package_to_begin_with() -> None:
    """The modules that find out what is broken load nothing that may be."""
    code = "import sys, onnxpfp; onnxpfp.doctor; print(*{'numpy', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
