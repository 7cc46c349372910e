from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.brute_shares import identity_model, model_of
from support.graphs import build

from onnxpfp.errors import ModelError, ProviderError
from onnxpfp.runtime.providers import resolve_providers
from onnxpfp.runtime.session import open_session

SMALL = identity_model(("N", 2))


def test_names_in_priority_order() -> None:
    found = resolve_providers("trt:1, cuda:0,CPU")
    assert [(item.name, dict(item.options)) for item in found] == [
        ("TensorrtExecutionProvider", {"device_id": "1"}),
        ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("CPUExecutionProvider", {}),
    ]
    assert [item.name for item in resolve_providers()] == ["CPUExecutionProvider"]
    assert [item.name for item in resolve_providers(["CUDAExecutionProvider"])] == [found[1].name]
    assert [item.name for item in resolve_providers("cpu,cpu")] == ["CPUExecutionProvider"]
    assert resolve_providers("dml,coreml,rocm,openvino")[1].name == "CoreMLExecutionProvider"


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("cudaa", "unknown execution provider 'cudaa'", "cuda"),
        ("zzzz", "unknown execution provider 'zzzz'", "known are cpu, cuda"),
        ("cuda:x", "'cuda:x' does not name a device", "cuda:0"),
        ("cpu:1", "'cpu:1' does not name a device", "cuda:0"),
        (" , ", "no execution provider is named", "cpu"),
    ],
)
def test_bad_names(spec: str, message: str, hint: str) -> None:
    with pytest.raises(ProviderError, match=message) as caught:
        resolve_providers(spec)
    assert hint in caught.value.hint


def test_running() -> None:
    session = open_session(SMALL, threads=1)
    assert session.providers == ("CPUExecutionProvider",)
    assert (session.inputs, session.outputs) == (("x",), ("y",))
    data = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(session.run({"x": data})["y"], data)
    assert session.run({"x": data}, ["y"]).keys() == {"y"}
    with pytest.raises(ModelError, match="onnxruntime cannot run the model: ") as caught:
        session.run({"x": np.ones((3, 9), np.float32)})
    assert "\n" not in str(caught.value)


def test_bytes_and_paths_with_external_data(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], {"x": ("N", 64)}, ["y"], {"w": weight})
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    data = np.ones((1, 64), np.float32)
    for source in (path, str(path), model_of([node], {"x": ("N", 64)}, ["y"], {"w": weight})):
        found = open_session(source, optimize=False).run({"x": data})["y"]
        np.testing.assert_allclose(found, data @ weight, rtol=1e-4, atol=1e-5)
    assert open_session(SMALL.SerializeToString()).outputs == ("y",)


def test_models_that_do_not_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = model_of([helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": (1,)}, ["y"])
    for source in (broken, b"garbage"):
        with pytest.raises(ModelError, match="onnxruntime cannot load the model: ") as caught:
            open_session(source)
        assert "\n" not in str(caught.value)
        assert "[ONNXRuntimeError]" not in str(caught.value)
    with pytest.raises(ModelError, match="does not exist"):
        open_session(tmp_path / "gone.onnx")
    assert capfd.readouterr() == ("", "")


def running_on_cuda() -> bool:
    try:
        return "CUDAExecutionProvider" in open_session(SMALL, "cuda").providers
    except ProviderError:
        return False


@pytest.mark.parametrize("spec", ["cuda", "cuda:0,cpu", "trt"])
def test_a_missing_accelerator_is_explained_and_nothing_is_printed(
    spec: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if running_on_cuda():
        pytest.skip("this machine has one")
    with pytest.raises(ProviderError) as caught:
        open_session(SMALL, spec)
    text = f"{caught.value} {caught.value.hint}"
    assert spec.split(",")[0] in text
    assert "NVIDIA driver" in text or "onnxruntime-gpu[cuda,cudnn]" in text or "nvidia-smi" in text
    assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_the_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="has no CUDAExecutionProvider") as caught:
        open_session(SMALL, "cuda")
    assert (
        caught.value.hint == "pip install 'onnxruntime-gpu[cuda,cudnn]', which the extra 'cuda' of onnxpfp brings, too"
    )
    with pytest.raises(ProviderError, match="has no CoreMLExecutionProvider"):
        open_session(SMALL, "coreml")


def test_a_broken_model_is_not_blamed_on_the_provider() -> None:
    broken = model_of([helper.make_node("NoSuchOp", ["x"], ["y"])], {"x": (1,)}, ["y"])
    with pytest.raises(ModelError, match="cannot load the model"):
        open_session(broken, "trt")


@pytest.mark.parametrize("value", [np.array(3, np.int64), np.array([3], np.int64), np.arange(6)[::2]])
def test_inputs_have_the_same_axes_wherever_outputs_lie(value: np.ndarray) -> None:
    """A number without axes stays one, and what is not contiguous is fed right."""
    rank = value.ndim
    graph = helper.make_graph(
        [helper.make_node("Identity", ["n"], ["m"]), helper.make_node("Shape", ["n"], ["s"])],
        "scalar",
        [helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [None] * rank)],
        [onnx.ValueInfoProto(name="m"), onnx.ValueInfoProto(name="s")],
    )
    session = open_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    wanted = session.run({"n": value})
    found = session.run_into({"n": value}, {"s": np.zeros(rank, np.int64)})
    assert found["m"].shape == wanted["m"].shape == value.shape
    assert (found["m"] == value).all()


def test_what_a_session_was_loaded_from_is_not_held() -> None:
    payload = build("g (float[N] x) => (y) { y = Relu(x) }").SerializeToString()
    before = sys.getrefcount(payload)
    session = open_session(payload, threads=1)
    assert sys.getrefcount(payload) == before
    assert session.run({"x": np.ones(2, np.float32)})["y"].tolist() == [1.0, 1.0]
