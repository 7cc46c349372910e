"""Regression targets: a linear op's output is compared behind the BatchNormalization and residual Add that follow it.

What a later layer reads is z = scale y + offset + shortcut. The shortcut of the pruned network has drifted already when
y is refitted, so the target of y is what brings z back to the original's (He et al., ICCV 2017):

    target = (z_original - offset - shortcut_pruned) / scale

Where nothing but ReLUs read z, a z below zero is as good as any other below zero (Zhang et al., 2016, 'Accelerating
very deep convolutional networks', the nonlinear case).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxpfp.arrays import Floats
from onnxpfp.channels import Analysis
from onnxpfp.model.attributes import Attributes

__all__ = ["RegressionTarget", "TargetFinder"]


EPSILON: Mapping[int, float] = {
    TensorProto.FLOAT16: 2.0**-10,
    TensorProto.BFLOAT16: 2.0**-7,
    TensorProto.DOUBLE: 2.0**-52,
}
"""Rounding of types other than float32."""


@dataclass(frozen=True, slots=True, eq=False)
class RegressionTarget:
    """The affine map from an output y to the next op that is not affine.

    Attributes:
        tensor: z; the output itself where nothing else is known.
        scale: What y is multiplied by, (O,); 0 where next to nothing of y reaches z.
        offset: What is added, (O,).
        shortcut: The other operand of the residual Add; empty where there is none.
        rectified: Whether only ReLUs read z.
    """

    tensor: str
    scale: Floats
    offset: Floats
    shortcut: str = ""
    rectified: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class TargetFinder:
    """Finds where the outputs of a model's linear ops are compared."""

    analysis: Analysis

    def target(self, output: str, size: int, axis: int) -> RegressionTarget:
        """Follow an output as long as one affine op alone reads it.

        Args:
            output: The output y of a linear op.
            size: Its channels O.
            axis: Their axis.
        """
        target = RegressionTarget(output, np.ones(size), np.zeros(size))
        index = self.analysis.index
        while (node := index.only_reader(target.tensor)) is not None:
            further = self._past(target, node, size, axis)
            if further is None:
                break
            target = further
        readers = [index.model.graph.node[node].op_type for node, _ in index.uses.get(target.tensor, ())]
        shown = target.tensor in index.read_elsewhere
        return replace(target, rectified=bool(readers) and not shown and set(readers) == {"Relu"})

    def _past(self, target: RegressionTarget, node: NodeProto, size: int, axis: int) -> RegressionTarget | None:
        if target.shortcut:
            return None
        if node.op_type == "BatchNormalization" and axis == 1:
            return self._past_norm(target, node)
        if node.op_type == "Add":
            other = node.input[1] if node.input[0] == target.tensor else node.input[0]
            if other in self.analysis.constants.names:
                return self._past_constant(target, node, other, size, axis)
            same = self.analysis.shapes.shape.get(other) == self.analysis.shapes.shape.get(target.tensor)
            if same and other != target.tensor:
                return replace(target, tensor=node.output[0], shortcut=other)
        return None

    def _past_norm(self, target: RegressionTarget, node: NodeProto) -> RegressionTarget | None:
        if not self.analysis.constants.names.issuperset(node.input[1:5]) or Attributes(node).integer(
            "training_mode", 0
        ):
            return None
        gamma, beta, mean, variance = (
            self.analysis.constants.value(name).astype(np.float64) for name in node.input[1:5]
        )
        factor = gamma / np.sqrt(np.maximum(variance, 0) + Attributes(node).real("epsilon", 1e-5))
        if factor.size != target.scale.size or not (np.isfinite(factor) & np.isfinite(mean) & np.isfinite(beta)).all():
            return None
        # What so small a scale leaves of y drowns in the rounding of z.
        factor[np.abs(gamma) <= self._rounding(target.tensor) ** 0.5 * np.abs(gamma).max(initial=0.0)] = 0.0
        offset = (target.offset - mean) * factor + beta
        return replace(target, tensor=node.output[0], scale=target.scale * factor, offset=offset)

    def _rounding(self, tensor: str) -> float:
        """Return the distance from 1 to the next number of a tensor's type."""
        return EPSILON.get(self.analysis.shapes.dtype.get(tensor, TensorProto.FLOAT), float(np.finfo(np.float32).eps))

    def _past_constant(
        self, target: RegressionTarget, node: NodeProto, other: str, size: int, axis: int
    ) -> RegressionTarget | None:
        added = self.analysis.constants.value(other).astype(np.float64)
        rank = len(self.analysis.shapes.shape[target.tensor])
        shape = (1,) * (rank - added.ndim) + added.shape
        if (
            added.ndim > rank
            or added.size not in {1, size}
            or shape[axis] != added.size
            or not np.isfinite(added).all()
        ):
            return None
        return replace(target, tensor=node.output[0], offset=target.offset + added.ravel())
