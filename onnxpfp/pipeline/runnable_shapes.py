"""Input shapes that a model runs at, where nobody gives data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto

from onnxpfp.errors import ModelError
from onnxpfp.model.input_shapes import default_input_shapes, input_shape_trials
from onnxpfp.model.shapes import example_feeds
from onnxpfp.runtime.session import Session

__all__ = ["runnable_shapes"]


def runnable_shapes(
    model: ModelProto, session: Session, given: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the first made-up input shapes at which a model runs and shows something, else the most natural ones.

    Args:
        model: The model.
        session: What runs it.
        given: Shapes that the user gives.

    Raises:
        OptionError: The given shapes name no input, or contradict a static axis.
        ModelError: An input has no rank and no shape was given.
    """
    empty: dict[str, tuple[int, ...]] | None = None
    for shapes in input_shape_trials(model, given):
        feed = example_feeds(model, shapes, np.random.default_rng(0))
        ones = {name: np.ones_like(array) if array.dtype.kind in "iu" else array for name, array in feed.items()}
        try:
            outputs = session.run(feed)
            if any(not np.array_equal(ones[name], array) for name, array in feed.items() if array.dtype.kind in "iu"):
                # Noise is drawn anew: indices must be right however it falls.
                session.run(ones)
        except ModelError:
            continue
        if all(output.size for output in outputs.values()):
            return shapes
        empty = empty or shapes
    return empty or default_input_shapes(model, given)
