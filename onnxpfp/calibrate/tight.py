"""The bound of order 16: what a whole row of sums leaves of a coarse bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.calibrate.scratch import Scratch
from onnxpfp.runtime.session import Session, open_session

__all__ = ["ORDER", "Tight"]

Floats = NDArray[np.float32]

ORDER = 16
_SQUARINGS = 4
_FLOOR = 1e-30
"""Weights below it count as it: then no bound is lost to underflow, and nothing is infinity times zero."""
_OPSET = 17


@dataclass(slots=True, eq=False)
class Tight:
    """Multiplies powers of z with powers of the weights; onnxruntime does it, and is loaded when first needed.

    Attributes:
        norms: Norms of the blocks' weights in the rows, (g, b, rows).
    """

    norms: Floats
    _session: Session | None = None

    def excess(self, coarse: Floats, z: Floats, least: Floats, scratch: Scratch) -> Floats:
        """Return the 16th power of bound / limit, (N, P, g b); `coarse` is overwritten with it.

        Args:
            coarse: The same by the coarse bound, (N, P, g b).
            z: Sums, (N, P, g, rows).
            least: The least of them, (N, P, g).
            scratch: Where intermediates go.
        """
        if self._session is None:
            self._session = open_session(self._model(), threads=1, spin=False, arena=False)
        groups, blocks = self.norms.shape[:2]
        place = scratch.take("power", (*z.shape[:2], groups, 1, blocks))
        feeds = {"z": z[:, :, :, None], "least": least[:, :, :, None, None]}
        if groups == 1:
            feeds = {"z": z[:, :, 0], "least": least}
            place = place[:, :, 0, 0]
        self._session.run_into(feeds, {"v": place})
        for _ in range(_SQUARINGS):
            np.multiply(coarse, coarse, out=coarse)
        coarse *= place.reshape(coarse.shape)
        return coarse

    def _model(self) -> ModelProto:
        """Return (least / z)^16 times the powers of the weights; groups are an axis of products."""
        scale = self.norms.max(2, keepdims=True)
        with np.errstate(under="ignore"):
            powers = self.norms / np.where(scale > 0, scale, 1)
            for _ in range(_SQUARINGS):
                np.multiply(powers, powers, out=powers)
        weights = np.maximum(powers, _FLOOR).swapaxes(1, 2)
        nodes = [helper.make_node("Div", ["least", "z"], ["r0"])]
        nodes += [helper.make_node("Mul", [f"r{n}"] * 2, [f"r{n + 1}"]) for n in range(_SQUARINGS)]
        nodes.append(helper.make_node("MatMul", [f"r{_SQUARINGS}", "w"], ["v"]))
        graph = helper.make_graph(
            nodes,
            "tight",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("z", "least")],
            [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ascontiguousarray(weights[0] if len(weights) == 1 else weights), "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
