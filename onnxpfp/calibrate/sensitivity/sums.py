"""The sums z of a family, and the magnitudes of what they are made of, by onnxruntime.

The weights of a linear op become rows: its outputs with both signs. Shares do not change when a row is scaled, but
bounds over several rows are tight only where their sums are alike, so rows are divided by about what their sums are
expected to be. Everything comes out position by position, with the rows or channels of one position side by side: that
is how candidates are looked up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import Floats, Floats32
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.calibrate.sensitivity.settings import Kernel
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.im2col import output_sizes
from onnxpfp.linear.ops import LinearOp
from onnxpfp.model.opset import model_of_graph
from onnxpfp.runtime.session import Session, open_session

__all__ = ["Scaled", "SumField", "Sums", "least_into", "scaled", "summed"]


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Weights of one linear op with scaled rows.

    Attributes:
        taps: V (C, O/g, k) float32, scaled.
        signed: The same as W+ and W- side by side, (C, 2 O/g, k).
        norm: What W+ and W- of the outputs were divided by, (g, 2, O/g) float32; 0 where there is none.
    """

    taps: Floats32
    signed: Floats32
    norm: Floats32

    def without_empty_rows(self) -> Floats32:
        """Return W+ and W- with empty rows replaced by the largest of their convolution group.

        An empty row takes part in no share, but with sums of zero every position would look as if its sums vanished.
        """
        norm = self.norm.reshape(len(self.norm), -1)
        empty = norm == 0
        if not empty.any():
            return self.signed
        filled = self.signed.reshape(len(norm), -1, *self.signed.shape[1:]).copy()
        for group, row in enumerate(norm.argmax(1).tolist()):
            filled[group][:, empty[group]] = filled[group][:, row, None]
        return filled.reshape(self.signed.shape)


def scaled(op: LinearOp, typical: Floats | None = None) -> Scaled:
    """Scale the rows of a linear op.

    Args:
        op: The linear op.
        typical: Positive magnitudes that the indices of its input are expected to have, (C,): both rows of an output
            are divided by about their sums at such an input. None divides them by the norm of the whole output.
    """
    # Rows are picked from them one by one: side by side they must lie.
    taps = np.ascontiguousarray(op.taps(), dtype=np.float32)
    grouped = taps.reshape(op.group, -1, taps.shape[1], math.prod(taps.shape[2:]))
    signed = np.empty((*grouped.shape[:2], 2, *grouped.shape[2:]), np.float32)
    np.maximum(grouped, 0, out=signed[:, :, 0])
    np.negative(np.minimum(grouped, 0, out=signed[:, :, 1]), out=signed[:, :, 1])
    norm = _norms(grouped) if typical is None else _expected(signed, typical)
    signed /= np.where(norm > 0, norm, np.float32(1))[:, None, :, :, None]
    divided = signed[:, :, 0] - signed[:, :, 1]
    return Scaled(divided.reshape(*taps.shape[:2], -1), signed.reshape(len(taps), 2 * taps.shape[1], -1), norm)


def _norms(taps: Floats32) -> Floats32:
    """Return the norms of outputs of weights (g, C/g, O/g, k), of both signs, (g, 2, O/g)."""
    # In float64, where squares of small weights do not vanish.
    norm = np.sqrt(np.einsum("gcok,gcok->go", taps, taps, dtype=np.float64)).astype(np.float32)
    return np.stack([norm, norm], axis=1)


def _expected(signed: Floats32, typical: Floats) -> Floats32:
    """Return about what the sums of rows (g, C/g, 2, O/g, k) are at an input (C,), (g, 2, O/g), 0 where a row is empty.

    That is their sums at an input of ones, times a power of two: what is divided by other powers of two has the same
    digits, so shares do not depend on the input that is expected.
    """
    ones = np.ones(len(typical), np.float32)
    sums = summed(signed, ones)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents = np.rint(np.log2(summed(signed, (typical / typical.mean()).astype(np.float32)) / sums))
    exponents = np.where(np.isfinite(exponents), exponents, 0) + np.rint(np.log2(typical.mean()))
    limits = np.finfo(np.float32)
    # Weights may be so small that their sum underflows.
    empty = (sums == 0) & ~signed.any((1, 4)) if (sums == 0).any() else np.zeros(sums.shape, np.bool_)
    norm = np.clip(np.ldexp(sums, exponents.astype(np.int64)), limits.tiny, limits.max)
    return np.where(empty, 0, norm).astype(np.float32)


def summed(signed: Floats32, inputs: Floats32) -> Floats:
    """Sum rows (g, C/g, 2, O/g, k) times inputs (C,) over channels and taps, (g, 2, O/g) float64."""
    group, channels = signed.shape[:2]
    products = np.matmul(inputs.reshape(group, 1, channels), signed.reshape(group, channels, -1))
    return products.reshape(group, *signed.shape[2:]).sum(3, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class SumField:
    """Some samples as a linear op sees them.

    Attributes:
        x: Input, (N, C, *spatial); by position, (N, P, C), where a position sees one position.
        magnitudes: (N, P, C), such that no taps of norm n make more of the input than n times them.
        z: Sums, (N, P, g, 2 O/g).
        least: The least of them, (N, P, g).
        sizes: Spatial shape of the input.
        spatial: Spatial shape of the output.
    """

    x: Floats32
    magnitudes: Floats32
    z: Floats32
    least: Floats32
    sizes: tuple[int, ...]
    spatial: tuple[int, ...]

    def part(self, which: slice) -> SumField:
        """Return some of the samples: views."""
        arrays = (self.x[which], self.magnitudes[which], self.z[which], self.least[which])
        return SumField(*arrays, self.sizes, self.spatial)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Computes z and the magnitudes of one family.

    Attributes:
        family: The linear ops.
        rows: Number of rows of each.
        squared: Whether the magnitudes come as their squares.
    """

    family: OpFamily
    rows: tuple[int, ...]
    squared: bool
    _session: Session

    @classmethod
    def of(cls, family: OpFamily, weights: Sequence[Scaled], kernel: Kernel) -> Sums:
        """Load what computes the sums of a family."""
        rows = tuple(each.norm.size for each in weights)
        squared = not family.flat and not _pools(family.lead, kernel)
        session = open_session(_model(family, weights, kernel), threads=1, shared=True)
        return cls(family, rows, squared, session)

    def run(self, x: Floats32, scratch: ScratchArrays) -> list[SumField]:
        """Compute the sums of some samples, for every linear op.

        Args:
            x: (N, C, *spatial), without negative entries.
            scratch: Where they are put; the next run overwrites them.
        """
        family, sizes = self.family, x.shape[2:]
        samples, channels = x.shape[:2]
        spatial = sizes if family.flat else output_sizes(family.lead, sizes)
        positions, group = math.prod(spatial), family.lead.group
        places = (samples, positions) if family.flat else (samples, *spatial)
        shapes: dict[str, tuple[int, ...]] = {"a": (*places, channels)}
        for number, rows in enumerate(self.rows):
            shapes[f"z{number}"] = (*places, rows) if group == 1 else (samples, positions, group, rows // group)
            shapes[f"least{number}"] = shapes[f"z{number}"][:-1]
        buffers = {name: scratch.take(name, shape) for name, shape in shapes.items()}
        x = np.ascontiguousarray(x.reshape(samples, channels, -1) if family.flat else x)
        self._session.run_into({"x": x}, buffers)
        magnitudes = buffers["a"].reshape(samples, positions, channels)
        if self.squared:
            np.sqrt(magnitudes, out=magnitudes)
        seen = magnitudes if family.flat else x
        by_group = samples, positions, group
        return [
            SumField(
                seen,
                magnitudes,
                buffers[f"z{number}"].reshape(*by_group, -1),
                buffers[f"least{number}"].reshape(by_group),
                sizes,
                spatial,
            )
            for number in range(len(self.rows))
        ]


def least_into(z: Floats32, out: Floats32) -> None:
    """Write the least sums of z (N, P, g, 2 O/g), (N, P, g)."""
    _minimum().run_into({"z": z}, {"least": out})


@functools.cache
def _minimum() -> Session:
    """Return what finds the least sums: onnxruntime does it several times as fast as numpy."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMin", ["z"], ["least"], axes=[3], keepdims=0)],
        "minimum",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("least", TensorProto.FLOAT, None)],
    )
    return open_session(model_of_graph(graph), threads=1, shared=True)


def _model(family: OpFamily, weights: Sequence[Scaled], kernel: Kernel) -> ModelProto:
    """Return a model for x (N, C, *spatial) -> a, or its squares, and z and least of every linear op."""
    group = family.lead.group
    constants: dict[str, NDArray[Any]] = {"rows": np.array([0, -1, group, weights[0].norm.size // group], np.int64)}
    nodes = _magnitudes(family, kernel, constants)
    outputs = ["a"]
    for number, each in enumerate(weights):
        # Where there is one group its axis is left out, for a Reshape copies what goes out.
        nodes += _sums(family, each, constants, f"z{number}" if group == 1 else f"sums{number}")
        if group > 1:
            nodes.append(helper.make_node("Reshape", [f"sums{number}", "rows"], [f"z{number}"]))
        least = helper.make_node("ReduceMin", [f"z{number}"], [f"least{number}"], axes=[-1], keepdims=0)
        nodes.append(least)
        outputs += [f"z{number}", f"least{number}"]
    rank = 3 if family.flat else len(family.lead.data_shape)
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return model_of_graph(graph)


def _sums(family: OpFamily, weights: Scaled, constants: dict[str, NDArray[Any]], out: str) -> list[NodeProto]:
    """Return nodes that make the sums of one linear op, (N, *spatial, rows)."""
    lead, name = family.lead, f"{out}_weights"
    signed = weights.without_empty_rows()
    if family.flat and lead.group == 1:
        # A product with constants on the right is the fastest of all.
        constants[name] = signed[:, :, 0]
        return [helper.make_node("MatMul", ["a", name], [out])]
    window = {} if family.flat else cast("dict[str, Any]", lead.attributes.as_attributes())
    kernel = (1,) if family.flat else lead.kernel
    kind = "ConvTranspose" if lead.kind == "conv_transpose" and not family.flat else "Conv"
    if kind == "Conv":
        grouped = signed.reshape(lead.group, -1, *signed.shape[1:]).transpose(0, 2, 1, 3)
        signed = grouped.reshape(-1, grouped.shape[2], grouped.shape[3])
    constants[name] = np.ascontiguousarray(signed.reshape(*signed.shape[:2], *kernel))
    return [
        helper.make_node(kind, ["x", name], [f"{out}_map"], group=lead.group, **window),
        _by_position(f"{out}_map", out, 1 if family.flat else len(lead.kernel)),
    ]


def _magnitudes(family: OpFamily, kernel: Kernel, constants: dict[str, NDArray[Any]]) -> list[NodeProto]:
    """Return nodes that make magnitudes a (N, *spatial, C) of the input x, or their squares."""
    lead = family.lead
    if family.flat:
        return [_by_position("x", "a", 1)]
    window = cast("dict[str, Any]", lead.attributes.as_attributes())
    if _pools(lead, kernel):
        pool = helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=lead.kernel, **window)
        return [pool, _by_position("m", "a", len(lead.kernel))]
    kind = "ConvTranspose" if lead.kind == "conv_transpose" else "Conv"
    constants["ones"] = np.ones((len(lead.channels), 1, *lead.kernel), np.float32)
    # Cauchy-Schwarz: sum over taps of w u <= norm(w) norm(u); the largest product is below it, too.
    return [
        helper.make_node("Mul", ["x", "x"], ["q"]),
        helper.make_node(kind, ["q", "ones"], ["s"], group=len(lead.channels), **window),
        _by_position("s", "a", len(lead.kernel)),
    ]


def _pools(op: LinearOp, kernel: Kernel) -> bool:
    """Tell whether magnitudes are largest entries, and onnxruntime has a MaxPool with this window: pads are short."""
    if kernel != "max" or op.kind != "conv":
        return False
    window, rank = op.attributes, len(op.kernel)
    pads = window.pads or ()
    automatic = window.auto_pad in {"SAME_UPPER", "SAME_LOWER"}
    return not automatic and rank <= 3 and all(0 <= pad < op.kernel[place % rank] for place, pad in enumerate(pads))


def _by_position(source: str, name: str, rank: int) -> NodeProto:
    """Return the node that puts channels last, without a Reshape: onnxruntime can do it as it leaves its own layout."""
    return helper.make_node("Transpose", [source], [name], perm=[0, *range(2, 2 + rank), 1])
