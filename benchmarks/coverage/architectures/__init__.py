"""Networks of every family with random weights, for `python -m benchmarks.coverage.exports`."""

from __future__ import annotations

import torch

# Without its C++ extension (a wheel made for another build of torch) torchvision does not import, for it describes ops
# that nobody registered. No network of the list calls them.
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
