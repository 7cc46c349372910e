"""The bound of order 16 or 8: what a whole row of sums leaves of a coarse bound.

Order 16 is tighter, but powers of float32 hold sums and weights only that differ by a factor of 170. Where more comes
together, order 8 leaves less: its powers hold a factor of 30,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxpfp.arrays import FLOAT_BYTES, Floats32
from onnxpfp.calibrate.sensitivity.scratch import ScratchArrays
from onnxpfp.model.opset import model_of_graph
from onnxpfp.runtime.heap import trim_malloc
from onnxpfp.runtime.session import Session, open_session

__all__ = ["FLOOR", "ORDER", "TightBound"]


ORDER = 16
_LOWER = 8
FLOOR = 1e-30
"""Weights below it count as it: then no limit is infinite."""
_UNIT = 1e18
"""Powers of the largest weights: as far above the smallest number of float32 as below the largest."""
_LEAST = 1e-36
"""Powers of weights, as a share of the largest, that count as it: then no bound is lost to underflow."""
_SPOILED = 30
"""Where more than one pair in so many is left by that only, the lower order takes over."""
_LARGE = 4 << 20


@dataclass(slots=True, eq=False)
class TightBound:
    """Multiplies powers of z with powers of the weights; onnxruntime does it, and is loaded when first needed.

    Attributes:
        shape: How many norms there are, (g, b, rows).
        norms: Returns norms of the blocks' weights in the rows, (g, b, rows): they may be as large as all weights, and
            are looked at when the session is loaded.
        order: The order.
    """

    shape: tuple[int, int, int]
    norms: Callable[[], Floats32]
    order: int = ORDER
    _session: Session | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether it has been needed before."""
        return self._session is not None

    def excess(self, coarse: Floats32, z: Floats32, least: Floats32, scratch: ScratchArrays) -> Floats32:
        """Return bound / limit to the power of the order, (N, P, g b); the order may be lower from then on.

        Args:
            coarse: Coarse bound / limit, (N, P, g b).
            z: Sums, (N, P, g, rows).
            least: The least of them, (N, P, g).
            scratch: Where intermediates and the result go.
        """
        sums = self._sums_of_powers(z, least, scratch)
        excess = self._times_coarse(sums, coarse, scratch)
        if self.order == ORDER and self._is_spoiled(sums, excess):
            self.order, self._session = _LOWER, None
            excess = self._times_coarse(self._sums_of_powers(z, least, scratch), coarse, scratch)
        return excess

    def _is_spoiled(self, sums: Floats32, excess: Floats32) -> bool:
        """Whether many pairs are left only because the powers of weights have a floor."""
        floor = np.float32(_UNIT * _LEAST * 2 * self.shape[2])
        low = sums <= floor
        if np.count_nonzero(low) * _SPOILED <= low.size:
            return False
        return bool(np.count_nonzero(low & (excess > 1)) * _SPOILED > low.size)

    def _sums_of_powers(self, z: Floats32, least: Floats32, scratch: ScratchArrays) -> Floats32:
        """Multiply powers of least / z with those of the weights, (N, P, g b)."""
        if self._session is None:
            self._session = open_session(self._model(), threads=1, shared=True)
            if math.prod(self.shape) * FLOAT_BYTES > _LARGE:
                trim_malloc()
        groups, blocks = self.shape[:2]
        powers = self._power(np.divide(least[..., None], z, out=scratch.take("ratio", z.shape)))
        sums = scratch.take("power", (*z.shape[:2], groups, 1, blocks))
        if groups == 1:
            self._session.run_into({"power": powers[:, :, 0]}, {"v": sums[:, :, 0, 0]})
        else:
            self._session.run_into({"power": powers[:, :, :, None]}, {"v": sums})
        return sums.reshape(*z.shape[:2], -1)

    def _times_coarse(self, sums: Floats32, coarse: Floats32, scratch: ScratchArrays) -> Floats32:
        excess = np.multiply(coarse, np.float32(_UNIT ** (-1 / self.order)), out=scratch.take("excess", coarse.shape))
        return np.multiply(self._power(excess), sums, out=excess)

    def _model(self) -> ModelProto:
        """Return a model for powers of least / z times those of the weights; groups are an axis of products."""
        norms = self.norms()
        scale = norms.max(2, keepdims=True)
        with np.errstate(under="ignore"):
            weights = self._power(np.divide(norms, np.where(scale > 0, scale, 1), dtype=np.float32))
        weights = np.float32(_UNIT) * np.maximum(weights, np.float32(_LEAST)).swapaxes(1, 2)
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
