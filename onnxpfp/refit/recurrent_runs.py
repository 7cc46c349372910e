"""Runs a recurrence alone on what it reads, in the original and in the pruned network, with any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from onnxpfp.arrays import AnyArray, Keep, owned
from onnxpfp.refit.recurrent_layers import BIAS, LENGTHS, RecurrentLayer, W, X
from onnxpfp.refit.stages import Runner
from onnxpfp.runtime import open_session
from onnxpfp.runtime.session import Session

__all__ = ["RecurrentRun"]

STATES = "states"


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentRun:
    """One recurrence of one of the two networks.

    Attributes:
        layer: The recurrence.
        runner: The network; the stage of the recurrence is next.
        constants: Its inputs that are constant, but for the weights.
        weights: W, R and B, by position.
    """

    layer: RecurrentLayer
    runner: Runner
    constants: Mapping[int, AnyArray]
    _session: Session

    @classmethod
    def of(cls, layer: RecurrentLayer, runner: Runner, constants: Mapping[int, AnyArray], keep: Keep) -> Self:
        """Load a recurrence.

        Args:
            layer: The recurrence.
            runner: The network.
            constants: Constant inputs but for the weights at full size, by position.
            keep: Whether each channel is in the network.
        """
        return cls(layer, runner, constants, _session_of(layer, runner, keep))

    def given(self, position: int, batch: int) -> NDArray[Any] | None:
        """Return one of its inputs that are no weights on one batch; None where it has none."""
        if not self.layer.inputs[position]:
            return None
        if position in self.constants:
            return np.asarray(self.constants[position])
        return self.runner.cache.batches[batch][self.layer.inputs[position]]

    def states(self, weights: Mapping[int, AnyArray], batch: int) -> NDArray[Any]:
        """Return the hidden states at all steps, (steps, directions, rows, H)."""
        feeds = {_name(position): array for position, array in weights.items()}
        for position in (X, *range(LENGTHS, len(self.layer.inputs))):
            array = self.given(position, batch)
            if array is not None:
                feeds[_name(position)] = np.asarray(array)
        with self.runner.turn:
            return owned(self._session.run(feeds)[STATES])


def _name(position: int) -> str:
    return f"input_{position}"


def _session_of(layer: RecurrentLayer, runner: Runner, keep: Keep) -> Session:
    """Load the node alone: all of its inputs are fed, and it shows its states."""
    node = NodeProto()
    node.CopyFrom(layer.node)
    used = [position for position, name in enumerate(layer.inputs) if name or position == BIAS]
    del node.input[:]
    node.input.extend(_name(position) if position in used else "" for position in range(max(used) + 1))
    del node.output[:]
    node.output.append(STATES)
    for attribute in node.attribute:
        if attribute.name == "hidden_size":
            attribute.i = int(keep[layer.units].sum())
    float_type = helper.np_dtype_to_tensor_dtype(layer.arrays[W].dtype)
    model = ModelProto(ir_version=runner.stages.model.ir_version)
    model.opset_import.extend(runner.stages.model.opset_import)
    model.graph.name = layer.name
    model.graph.node.append(node)
    for position in used:
        element = onnx.TensorProto.INT32 if position == LENGTHS else float_type
        model.graph.input.append(helper.make_tensor_value_info(_name(position), element, None))
    model.graph.output.append(onnx.ValueInfoProto(name=STATES))
    return open_session(model, runner.requests, threads=runner.threads, shared=True)
