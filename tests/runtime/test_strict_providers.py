"""Strict providers: a node that would fall back to the CPU is an error. Most devices here are made up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nets
import numpy as np
import onnxruntime
import pytest

from onnxpfp.errors import OptionError, ProviderError
from onnxpfp.runtime import open_session, resolve_providers
from onnxpfp.runtime.handle import _FALLBACK, _why_on_cpu

STRICT = "session.disable_cpu_ep_fallback"
RECORD = "session.record_ep_graph_assignment_info"
SMALL = nets.build("g (float[N,2] x) => (float[N,2] y) { y = Relu(x) }", {})
WITH_SIGMOID = nets.build("g (float[N,2] x) => (float[N,2] y) { y = Sigmoid(x) }", {})
WITH_SIGMOID.graph.node[0].name = "last"


class FakeOnnxruntime:
    """Sessions of an onnxruntime with a device that runs no Sigmoid."""

    def __init__(self, *, runs: bool = True) -> None:
        self.runs = runs
        self.opened: list[tuple[list[str], dict[str, str]]] = []

    def __call__(self, payload: bytes, options: Any, *, providers: Any, enable_fallback: int = 1) -> Any:
        names = [item if isinstance(item, str) else item[0] for item in providers]
        entries = {name: options.get_session_config_entry(name) for name in (STRICT, RECORD) if _has(options, name)}
        self.opened.append((names, entries))
        if entries.get(STRICT) == "1" and (not self.runs or b"Sigmoid" in payload):
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : This session contains nodes, but {_FALLBACK} by you.")
        nodes = [SimpleNamespace(op_type="Sigmoid", name=f"s{number}") for number in range(4)]
        parts = [("CUDAExecutionProvider", nodes[:1]), ("CPUExecutionProvider", nodes)]
        return SimpleNamespace(
            get_providers=lambda: names if self.runs else names[1:],
            get_inputs=list,
            get_outputs=list,
            get_provider_graph_assignment_info=lambda: [
                SimpleNamespace(ep_name=name, get_nodes=lambda own=own: own) for name, own in parts
            ],
        )


def _has(options: Any, name: str) -> bool:
    try:
        return bool(options.get_session_config_entry(name))
    except RuntimeError:
        return False


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOnnxruntime]:
    """Let sessions be opened on a device that is not there."""

    def install(**behaviour: bool) -> FakeOnnxruntime:
        found = FakeOnnxruntime(**behaviour)
        monkeypatch.setattr(onnxruntime, "InferenceSession", found)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
        names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        return found

    return install


def test_strict_providers_get_no_cpu_behind_them(fake: Callable[..., FakeOnnxruntime]) -> None:
    opened = fake().opened
    open_session(SMALL, resolve_providers("cuda", strict=True))
    open_session(SMALL, resolve_providers("cuda"))
    assert opened == [
        (["CUDAExecutionProvider"], {STRICT: "1"}),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], {}),
    ]


def test_nodes_that_only_the_cpu_can_run_are_named(fake: Callable[..., FakeOnnxruntime]) -> None:
    opened = fake().opened
    with pytest.raises(ProviderError) as caught:
        open_session(WITH_SIGMOID, resolve_providers("cuda:1", strict=True))
    assert str(caught.value) == (
        "cuda:1 cannot run every node, and --strict-providers keeps the rest from the CPU: "
        "Sigmoid 's0', Sigmoid 's1', Sigmoid 's2' and 1 more"
    )
    assert caught.value.hint == "without --strict-providers the CPU runs them"
    assert opened[1] == (["CUDAExecutionProvider", "CPUExecutionProvider"], {RECORD: "1"})


def test_a_strict_device_that_does_not_start_is_told_from_nodes_that_it_cannot_run(
    fake: Callable[..., FakeOnnxruntime],
) -> None:
    fake(runs=False)
    with pytest.raises(ProviderError, match="cuda was asked for, but cannot run here"):
        open_session(SMALL, resolve_providers("cuda", strict=True))


def test_onnxruntime_itself_refuses_nodes_on_the_cpu_in_these_words() -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(STRICT, "1")
    with pytest.raises(Exception, match=_FALLBACK):
        onnxruntime.InferenceSession(WITH_SIGMOID.SerializeToString(), options, providers=[])


def test_onnxruntime_tells_what_runs_on_the_cpu() -> None:
    """As strict providers would be told: the CPU is there, and nothing else."""
    found = _why_on_cpu(onnxruntime, WITH_SIGMOID.SerializeToString(), [], ())
    assert str(found).endswith(": Sigmoid 'last'")


def test_strict_providers_and_the_cpu_contradict_each_other() -> None:
    for spec in ("cpu", "cuda,cpu", ["CPUExecutionProvider"]):
        with pytest.raises(OptionError, match="--strict-providers keeps every node from the CPU"):
            resolve_providers(spec, strict=True)
    assert [item.strict for item in resolve_providers("trt,cuda", strict=True)] == [True, True]
    assert [item.strict for item in resolve_providers("cuda,cpu")] == [False, False]


def _has_cuda() -> bool:
    try:
        return "CUDAExecutionProvider" in open_session(SMALL, "cuda").providers
    except ProviderError:
        return False


@pytest.mark.gpu
def test_a_device_that_runs_every_node_runs_them_strictly() -> None:
    if not _has_cuda():
        pytest.skip("needs CUDA")
    session = open_session(WITH_SIGMOID, resolve_providers("cuda", strict=True))
    assert session.providers[0] == "CUDAExecutionProvider"
    data = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(session.run({"x": data})["y"], 1 / (1 + np.exp(-data)), rtol=1e-6)


@pytest.mark.gpu
def test_a_node_that_a_real_device_cannot_run_is_named() -> None:
    if not _has_cuda():
        pytest.skip("needs CUDA")
    model = nets.build("g (string[N] x) => (string[N] y) { y = StringNormalizer(x) }", {})
    with pytest.raises(ProviderError, match=r"cuda cannot run every node.*: StringNormalizer 'node_y'"):
        open_session(model, resolve_providers("cuda", strict=True))
