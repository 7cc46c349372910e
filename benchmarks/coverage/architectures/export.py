"""Write one network as ONNX, with one of torch's two exporters."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from benchmarks.coverage.architectures.net import Net, Wrapped, enliven

__all__ = ["export"]

OPSET = {"torchscript": 17, "dynamo": 20}


def export(net: Net, exporter: str, file: Path) -> None:
    """Build a network and export it; random weights are the same in every run.

    Args:
        net: The network.
        exporter: "torchscript" or "dynamo".
        file: Where it is written.
    """
    warnings.simplefilter("ignore")
    # torch.nn's own fused path of attention is one op, which the TorchScript exporter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(0)
    module = net.build().eval()
    enliven(net, module, biases=exporter == "dynamo")
    wrapped = Wrapped(net, module).eval()
    names = list(net.inputs)
    scratch = file.with_suffix(".part")
    options: dict[str, object] = {}
    if exporter == "dynamo":
        options = {"dynamo": True, "external_data": False, "verbose": False}
    else:
        options = {"dynamo": False, "dynamic_axes": {name: {0: "batch"} for name in names} if net.dynamic else None}
    with torch.no_grad():
        feeds = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in net.inputs.values())
        torch.onnx.export(wrapped, feeds, scratch, input_names=names, opset_version=OPSET[exporter], **options)
    scratch.rename(file)
