"""What is said about networks that draw random numbers."""

from __future__ import annotations

from onnx import ModelProto

from onnxpfp.model.draws import drawing_ops

__all__ = ["draws_notes"]


def draws_notes(model: ModelProto) -> tuple[str, ...]:
    """Return a line on how a network that draws was compared; none for others."""
    ops = drawing_ops(model)
    if not ops:
        return ()
    return (
        f"the network draws random numbers ({', '.join(ops)}): it was compared with the pruned one on the same draws, "
        "decided by the samples; what is written draws as before",
    )
