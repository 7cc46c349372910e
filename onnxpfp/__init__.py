"""onnxpfp: provable filter pruning of ONNX graphs."""

__version__ = "0.1.0"
