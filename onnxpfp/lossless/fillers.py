"""Channels that cost nothing and stay all the same, because kernels compute whole blocks of channels.

Of n channels d cost nothing. A kernel that computes `step` channels at once takes no less time for n - d of them than
for the next multiple of the step, and often more, for what is no multiple may leave the layout in blocks. So as many
stay as fill the group up to that multiple; if it is more than n, neither width is a multiple, and all d go.

Fillers must be the first that the scores let go. Those that are zero on all samples, or negligible, stay as they are,
for they have next to no share of any output. Constants and duplicates have one, so the consumers take them over as if
they went, and read them with weights of zero from then on. Criteria that look at filters or maps alone (`l1`, `l2`,
`fpgm`, `bn-scale`, `lamp`, `hrank`, `apoz` and others) do not see that.

Subnormal weights may cost more time than a block. So fillers that have some do not stay as they are: they are taken
over too, as far as they are not zero, and their subnormal weights become zero.

Of an OCR recogniser (`ch_PP-OCRv4_rec_infer.onnx`, groups of 480 of which 466 and 470 live, 240 of which 238 live) one
thread with AVX-512 takes 1.09 of its time without all that costs nothing, 1.00 with fillers in steps of 16.
"""

from __future__ import annotations

import numpy as np

from onnxpfp.arrays import Bools

__all__ = ["choose_fillers"]


def choose_fillers(free: Bools, idle: Bools, step: int) -> Bools:
    """Choose which of the channels of a group stay that cost nothing.

    Args:
        free: What costs nothing, (n,).
        idle: What may stay as it is, (n,): it is taken first.
        step: The multiple of channels that is filled up to.

    Returns:
        (n,) truth values; none where the group is too small for a whole multiple.
    """
    left = free.size - np.count_nonzero(free)
    wanted = -(-left // step) * step
    candidates = np.flatnonzero(free)
    # Stable, so that equal ones are taken in the order of their ids.
    order = candidates[np.argsort(~idle[candidates], kind="stable")]
    fillers = np.zeros(free.size, np.bool_)
    if wanted <= free.size:
        fillers[order[: wanted - left]] = True
    return fillers
