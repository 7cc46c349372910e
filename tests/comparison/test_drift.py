"""What is wrong is found before anything is written, and the drift is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper

import onnxpfp
from onnxpfp.cli.main import main
from onnxpfp.comparison.drift import check
from onnxpfp.comparison.equivalence import check_equivalence, tolerance
from onnxpfp.errors import VerificationError
from onnxpfp.model.shapes import concrete_shapes
from onnxpfp.pipeline import candidate
from onnxpfp.runtime.providers import resolve_providers

DATA = nets.noise(12, 3, 8, 8)


def swap_channels(model: ModelProto) -> None:
    """Swap two kept channels in one of several tied weights."""
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            array = numpy_helper.to_array(tensor).copy()
            array[:, [0, 1]] = array[:, [1, 0]]
            tensor.CopyFrom(numpy_helper.from_array(array, "w2"))


def misname(model: ModelProto) -> None:
    model.graph.node[2].input[1] = "nowhere"


def one_channel_less(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[1:], "b1"))


def other_output(model: ModelProto) -> None:
    model.graph.node[-1].op_type = "MatMul"
    del model.graph.node[-1].attribute[:], model.graph.node[-1].input[2:]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((20, 5), np.float32), "ones"))
    model.graph.node[-1].input[1] = "ones"


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the rewrite make a mistake."""

    def install(mistake: Any) -> None:
        original = candidate.apply

        def apply(model: ModelProto, graph: Any, keep: Any, edits: Any, scratch: Any) -> ModelProto:
            pruned = original(model, graph, keep, edits, scratch)
            if not keep.all():
                mistake(pruned)
            return pruned

        monkeypatch.setattr(candidate, "apply", apply)

    return install


MISTAKES = {
    swap_channels: "the pruned model is not the masked original: the output 'y' differs by",
    misname: "the pruned model is broken",
    one_channel_less: "the pruned model",
    other_output: "the pruned model",
}


@pytest.mark.parametrize("calibration", [None, DATA])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_the_rewrite_are_found(spoil: Any, mistake: Any, calibration: Any) -> None:
    spoil(mistake)
    with pytest.raises(VerificationError, match=MISTAKES[mistake]):
        onnxpfp.prune(nets.chain(), calibration=calibration, keep_macs=0.5)


def test_nothing_is_written_after_a_mistake(spoil: Any, tmp_path: Path) -> None:
    onnx.save(nets.chain(), tmp_path / "in.onnx")
    (tmp_path / "out.onnx").write_bytes(b"before")
    before = sorted(path.name for path in tmp_path.iterdir())
    spoil(swap_channels)
    outputs = ["--plan", str(tmp_path / "plan.json"), "--json", str(tmp_path / "report.json")]
    ran = CliRunner().invoke(main, ["prune", str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), *outputs])
    assert ran.exit_code == 4
    assert "is not the masked original" in ran.stderr
    assert (tmp_path / "out.onnx").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(("dtype", "allowed"), [("float", 1e-4), ("float16", 2e-2), ("double", 1e-4)])
def test_the_tolerance_follows_the_dtype(dtype: str, allowed: float) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g ({dtype}[N,4] x) => ({dtype}[N,4] y) {{ y = Relu(x) }}'
    )
    assert tolerance(model, concrete_shapes(model, {})) == allowed


def test_quantized_models_get_the_widest_tolerance() -> None:
    model = nets.build(
        "g (float[N,4] x) => (float[N,4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", {"s": ()}
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
    assert tolerance(model, concrete_shapes(model, {})) == 5e-2


def test_an_image_of_bytes_is_no_quantized_model() -> None:
    model = nets.build("g (uint8[N,4] x) => (float[N,4] y) { f = Cast<to=1>(x) y = Mul(f, w) }", {"w": (4,)})
    assert tolerance(model, concrete_shapes(model, {})) == 1e-4


def test_a_number_without_axes_among_the_inputs_does_not_stop_the_oracle() -> None:
    """The error is beyond the first tolerance, so the inputs are moved by a rounding to see what that does."""
    model = nets.build("g (float[N,4] x, float s) => (float[N,4] y) { y = Mul(x, s) }", {})
    feed = {"x": np.ones((1, 4), np.float32), "s": np.array(2, np.float32)}
    wrong = nets.build("g (float[N,4] x, float s) => (float[N,4] y) { m = Mul(x, s) y = Mul(m, x) }", {})
    feed["x"] *= 3
    with pytest.raises(VerificationError, match="is not the masked original"):
        check_equivalence(model, wrong, [feed], allowed=1e-4, providers=resolve_providers("cpu"), threads=1)


def add(amount: float, *, shape: str = "N,4") -> ModelProto:
    return nets.build(f"g (float[N,4] x) => (float[{shape}] y) {{ y = Add(x, w) }}", {"w": np.full(4, amount)})


def test_the_error_is_relative_to_the_largest_output() -> None:
    feed = {"x": np.array([[1, -8, 2, 0]], np.float32)}
    options: Any = {"providers": resolve_providers("cpu"), "threads": 1}
    found = check_equivalence(add(0), add(0.5), [feed, feed], allowed=0.1, **options)
    assert (found.error, found.tolerance, found.runs) == (0.0625, 0.1, 2)
    with pytest.raises(VerificationError, match=r"'y' differs by 6\.2e-02 of its largest value, 6e-02 is allowed"):
        check_equivalence(add(0), add(0.5), [feed], allowed=0.06, **options)
    with pytest.raises(VerificationError, match="differs by"):
        check_equivalence(add(0), add(float("nan")), [feed], allowed=0.1, **options)
    # Where both are not a number, they agree.
    assert check_equivalence(add(float("nan")), add(float("nan")), [feed], allowed=0.1, **options).error == 0


def test_a_model_that_the_checker_never_passed_may_be_pruned_but_not_broken() -> None:
    odd, broken = nets.chain(), nets.chain()
    odd.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    check(odd, odd)
    misname(broken)
    with pytest.raises(VerificationError, match="the pruned model is broken"):
        check(odd, broken)
    with pytest.raises(VerificationError, match="the pruned model is broken"):
        check(nets.chain(), odd)


def test_drift_is_what_numpy_says() -> None:
    # Few samples: none are held out, so the drift is over exactly these.
    report = (result := onnxpfp.prune(nets.chain(), calibration=DATA[:3], keep_macs=0.5)).report
    one, two = nets.run(nets.chain(), DATA[:3]), nets.run(result.model, DATA[:3])
    assert report.drift is not None
    assert report.drift.relative_error == pytest.approx(np.linalg.norm(one - two) / np.linalg.norm(one), rel=1e-4)
    assert report.drift.top1_agreement == np.mean(one.argmax(1) == two.argmax(1))
    assert (report.drift.samples, report.drift.held_out) == (3, False)


@pytest.mark.parametrize(
    ("tail", "outputs", "voted"),
    [
        ("y = Conv(r, w2)", "float[N,4,8,8] y", False),
        ("p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v)", "float[N,5] y", True),
        ("p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, o)", "float[N,1] y", False),
        ("p = GlobalAveragePool(r) y = Conv(p, w2)", "float[N,4,1,1] y", False),
        (
            "z = Conv(r, w2) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v)",
            "float[N,4,8,8] z, float[N,5] y",
            True,
        ),
    ],
)
def test_top1_only_where_the_output_looks_like_classes(tail: str, outputs: str, voted: bool) -> None:
    text = f"g (float[N,3,8,8] x) => ({outputs}) {{ a = Conv <pads = [1,1,1,1]> (x, w1) r = Relu(a) {tail} }}"
    shapes = {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "v": (8, 5), "o": (8, 1)}
    used = {name: shape for name, shape in shapes.items() if f" {name})" in text}
    report = onnxpfp.prune(nets.build(text, used), calibration=DATA, keep_macs=0.7).report
    assert report.drift is not None
    assert (report.drift.top1_agreement is not None) == voted
    assert report.drift.relative_error > 0


def test_the_drift_is_that_of_the_worst_output() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) {
        a = Conv(x, w1) r = Relu(a) y = Conv(r, w2) z = Conv(x, w3) }"""
    model = nets.build(text, {"w1": (8, 3, 1, 1), "w2": (4, 8, 1, 1), "w3": (4, 3, 1, 1)})
    result = onnxpfp.prune(model, calibration=DATA[:3], keep_macs=0.7)
    one, two = nets.run(model, DATA[:3]), nets.run(result.model, DATA[:3])
    assert result.report.drift is not None
    assert result.report.drift.relative_error == pytest.approx(
        np.linalg.norm(one - two) / np.linalg.norm(one), rel=1e-4
    )


def test_the_drift_of_integer_outputs_is_the_share_that_differs() -> None:
    text = """g (float[N,5] x) => (int64[N] y) {
        h = MatMul(x, w1) r = Relu(h) l = MatMul(r, w2) y = ArgMax <axis = 1, keepdims = 0> (l) }"""
    model = nets.build(text, {"w1": (5, 8), "w2": (8, 3)})
    data = nets.noise(3, 5)
    result = onnxpfp.prune(model, calibration=data, keep_macs=0.4, select="deterministic")
    drift = result.report.drift
    assert (nets.run(model, data) != nets.run(result.model, data)).any()
    assert drift is not None
    assert drift.relative_error is None
    assert drift.differing is not None
    assert 0 < drift.differing <= 1


def test_tensors_that_are_outputs_too() -> None:
    model = nets.chain()
    for name, shape in (("b3", [5]), ("c", ["N", 10, 8, 8])):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    result = onnxpfp.prune(model, calibration=DATA, keep_macs=0.8)
    assert result.plan.initializers.keys() == {"w1", "b1", "w2"}
    assert list(result.model.graph.output) == list(model.graph.output)
    outputs = nets.session(result.model).run(None, {"x": DATA})
    np.testing.assert_array_equal(outputs[1], nets.weights(model)["b3"])
    assert outputs[2].shape == (12, 10, 8, 8)


QDQ = """g (float[N,4] x) => (float[N,4] y) {
    q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) a = Mul(d, w)
    r = QuantizeLinear(a, s, z) e = DequantizeLinear(r, s, z) y = Relu(e) }"""


def quantized(weight: float) -> ModelProto:
    model = nets.build(QDQ, {"s": np.array(0.1), "w": np.full(4, weight)})
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "z"))
    return model


def test_quantized_models_are_held_against_each_other_without_their_steps() -> None:
    """A weight that is a little off shows, although every number falls on the same step."""
    feed = {"x": np.array([[0.3, 0.5, 0.9, 1.2]], np.float32)}
    hold = {"allowed": 5e-2, "providers": resolve_providers("cpu"), "threads": 1}
    assert check_equivalence(quantized(1.0), quantized(1.0), [feed], **hold).error == 0
    with pytest.raises(VerificationError, match=r"2.0e-03 of its largest value, 1e-04 is allowed"):
        check_equivalence(quantized(1.0), quantized(1.002), [feed], **hold)


def test_other_sizes_are_tried_as_far_as_the_original_takes_them() -> None:
    """The Reshape of the wrong model has the batch of its example in it."""
    feed, twice = ({"x": np.ones((batch, 4), np.float32)} for batch in (1, 2))
    odd = {"x": np.ones((2, 6), np.float32)}
    hold = {"allowed": 1e-4, "providers": resolve_providers("cpu"), "threads": 1}
    right, wrong = (onnx.parser.parse_model(reshape(first)) for first in (0, 1))
    assert check_equivalence(right, right, [feed], **hold, trials=[twice, odd]).runs == 2
    assert check_equivalence(right, wrong, [feed], **hold).error == 0
    with pytest.raises(VerificationError, match=r"has shape|does not run"):
        check_equivalence(right, wrong, [feed], **hold, trials=[twice, odd])


def reshape(first: int) -> str:
    return f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[N,4] x) => (float[A,B,C] y) <int64[3] s = {{{first}, 2, -1}}> {{ y = Reshape(x, s) }}"""
