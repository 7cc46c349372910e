"""The bound of order 16: what a whole row of sums leaves of a coarse bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import Floats32
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.model.opset import model_of_graph
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.runtime.session import Session, open_session

__all__ = ["FLOOR", "ORDER", "TightBound"]


ORDER = 16
_RANGE = 18
FLOOR = 1e-30
"""Weights below it count as it: then no bound is lost to underflow, and nothing is infinity times zero."""
_LARGE = 4 << 20


@dataclass(slots=True, eq=False)
class TightBound:
    """Multiplies powers of z with powers of the weights; onnxruntime does it, and is loaded when first needed.

    Attributes:
        norms: Norms of the blocks' weights in the rows, (g, b, rows).
    """

    norms: Floats32
    order: int = 8
    _session: Session | None = None

    def excess(self, coarse: Floats32, z: Floats32, least: Floats32, scratch: ScratchArrays) -> Floats32:
        """Return the 16th power of bound / limit, (N, P, g b); `coarse` is overwritten with it.

        Args:
            coarse: The same by the coarse bound, (N, P, g b).
            z: Sums, (N, P, g, rows).
            least: The least of them, (N, P, g).
            scratch: Where intermediates go.
        """
        if self._session is None:
            self._session = open_session(self._model(), threads=1, spin=False, shared=True)
            if self.norms.nbytes > _LARGE:
                trim_heap()
        groups, blocks = self.norms.shape[:2]
        place = scratch.take("power", (*z.shape[:2], groups, 1, blocks))
        shape = (*z.shape[:2], groups, 1, z.shape[3])
        if groups == 1:
            shape, place = (*z.shape[:2], z.shape[3]), place[:, :, 0, 0]
        power = self._power(np.divide(least[..., None], z, out=scratch.take("ratio", z.shape))).reshape(shape)
        self._session.run_into({"power": power}, {"v": place})
        coarse *= np.float32(10 ** (-_RANGE / self.order))
        self._power(coarse)
        coarse *= place.reshape(coarse.shape)
        return coarse

    def _model(self) -> ModelProto:
        """Return a model for (least / z)^16 times the powers of the weights; groups are an axis of products."""
        scale = self.norms.max(2, keepdims=True)
        with np.errstate(under="ignore"):
            weights = self._power(np.divide(self.norms, np.where(scale > 0, scale, 1), dtype=np.float32))
        weights = np.float32(10**_RANGE) * np.maximum(weights, np.float32(10.0 ** (-2 * _RANGE))).swapaxes(1, 2)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["power", "w"], ["v"])],
            "tight",
            [helper.make_tensor_value_info("power", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ascontiguousarray(weights[0] if len(weights) == 1 else weights), "w")],
        )
        return model_of_graph(graph)

    def _power(self, values: Floats32) -> Floats32:
        """Raise to the order in place."""
        for _ in range(self.order.bit_length() - 1):
            np.multiply(values, values, out=values)
        return values
