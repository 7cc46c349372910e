"""Accuracy of trained networks pruned without training, by every method of onnxpfp and by other pruners."""
