"""What the whole of `onnxpfp prune` takes, in forward passes of the same images."""
