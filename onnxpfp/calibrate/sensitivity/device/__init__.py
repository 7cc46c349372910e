"""Screening where the network runs: what linear ops read stays there, and only scores and counters come back.

The bounds are those of `onnxpfp.calibrate.sensitivity.screening`; onnxruntime computes all, in three small graphs:

    totals    sums and squares of the input
    bounds    z, and a bound for every block at every (sample, position) pair
    shares    exact shares at the pairs of the largest bounds

Weights are inputs of the graphs, not constants: so all families of one form share a session and its memory. Windows are
gathered from an index table and multiplied, never convolved: cuDNN may choose an algorithm with differences of large
numbers (Winograd, FFT), and a share is largest where its sum z is small. TF32 is off in `runtime.providers`.

Only ops that onnxruntime has CUDA kernels for are used, according to its docs/OperatorKernels.md; no shape is computed
in a graph, for such nodes go to the CPU. On a GPU this has not been run yet; the tests run it on the CPU.
"""

from onnxpfp.calibrate.sensitivity.device.observer import DeviceSensitivityObserver
from onnxpfp.calibrate.sensitivity.device.programs import Programs

__all__ = ["DeviceSensitivityObserver", "Programs"]
