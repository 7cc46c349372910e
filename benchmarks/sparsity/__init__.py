"""What single weights that become zeros cost: `onnxpfp sparsify` beside magnitude, and how often its bounds fail."""
