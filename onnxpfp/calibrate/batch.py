"""How many samples run at once: what the model fixes, what was asked, or what memory and cache allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxpfp.arrays import FLOAT_BYTES
from onnxpfp.calibrate.sensitivity.settings import SensitivitySettings
from onnxpfp.data.samples import Samples
from onnxpfp.errors import CalibrationError
from onnxpfp.linear.families import OpFamily
from onnxpfp.linear.ops import LinearOp

__all__ = ["BATCH", "SCARCE_BYTES", "choose_batch"]

SCARCE_BYTES = 16 << 20
"""Limit of one intermediate where weights stay in files, for then memory is scarce."""
BATCH = 16
"""Most samples in one run where nobody asks for more."""
_TWICE = 2
"""onnxruntime holds what it hands out in its own layout, too."""


def choose_batch(
    families: Sequence[OpFamily],
    readers: Sequence[LinearOp],
    samples: Samples,
    asked: int | None,
    plan: SensitivitySettings,
) -> int:
    """Return the batch size: what the model fixes, or what was asked (else 16) as far as memory and cache allow.

    Args:
        families: What is screened: their inputs are held for a batch, within the workspace.
        readers: What the graph itself measures.
        samples: What is fed.
        asked: The most that the user wants.
        plan: How to compute.

    Raises:
        CalibrationError: Fewer than one sample is asked for.
    """
    if samples.fixed_batch is not None:
        return samples.fixed_batch
    if asked is not None and asked < 1:
        raise CalibrationError(f"a batch of {asked} samples is not possible", hint="give 1 or more")
    held = {family.lead.data: FLOAT_BYTES * math.prod(family.lead.data_shape) for family in families}
    limits = [asked or BATCH, len(samples), plan.workspace_bytes // (_TWICE * max(1, sum(held.values())))]
    if readers:
        limits.append(_in_graph(readers, plan))
    return max(1, min(limits))


def _in_graph(readers: Sequence[LinearOp], plan: SensitivitySettings) -> int:
    """Bound the batch of the plain path.

    The largest sums z and their inverse stay within the workspace; three quarters of the readers can work on a
    channel within two chunks.
    """
    sums = [2 * FLOAT_BYTES * math.prod(reader.output_shape) for reader in readers]
    blocks = [
        size // reader.group * (reader.kernel_size if plan.kernel == "max" else 1)
        for size, reader in zip(sums, readers, strict=True)
    ]
    in_memory = plan.workspace_bytes // max(1, 2 * max(sums))
    if plan.workspace_bytes <= SCARCE_BYTES:
        # In few chunks: a node of the probe takes memory, too.
        chunks = [each * len(reader.channels) // plan.max_chunks for each, reader in zip(blocks, readers, strict=True)]
        in_memory = min(in_memory, plan.workspace_bytes // max(1, max(chunks)))
    in_cache = 2 * plan.chunk_bytes // max(1, sorted(blocks)[len(blocks) * 3 // 4])
    return min(in_memory, in_cache)
