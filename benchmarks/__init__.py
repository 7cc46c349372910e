"""Benchmarks of onnxpfp; each package runs by `python -m benchmarks.NAME` from the root of the repository."""
