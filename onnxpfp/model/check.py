"""onnx.checker with its failures as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from onnx import ModelProto, checker, shape_inference

from onnxpfp.errors import one_line
from onnxpfp.runtime.external_data import externalise

__all__ = ["checker_message"]


def checker_message(model: ModelProto, *, full: bool) -> str | None:
    """Return what onnx.checker says against a model, in one line, or None.

    Weights that lie in files are inputs to it. A model that holds more than 2 GB cannot be handed over;
    onnxruntime checks it when it loads.

    Args:
        model: The model.
        full: Whether to infer all shapes too.
    """
    check = cast("Callable[..., None]", checker.check_model)  # pyright: ignore[reportUnknownMemberType]
    try:
        check(externalise(model)[0], full_check=full)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        return one_line(error)
    except ValueError:
        return None
    return None
