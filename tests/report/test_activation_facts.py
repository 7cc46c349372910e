"""What reports say about the peak of activations."""

from __future__ import annotations

from onnxpfp.model.activation_memory import ActivationPeak, LiveTensor
from onnxpfp.report.activations import LONGEST, peak_fact, peaks_fact


def test_names_are_whole_up_to_a_length() -> None:
    name = "n" * LONGEST
    peak = ActivationPeak(1024, "Relu", name, (LiveTensor(f"{name}:0", 512), LiveTensor("y", 512)), ("s",), ("If_0",))
    half = LONGEST // 2
    assert peak_fact(peak).startswith(
        f"1,024 bytes, the most at once, at Relu '{name}' ({'n' * half}...{'n' * (half - 2)}:0 512, y 512); "
    )
    assert peak_fact(peak).endswith("not counted are tensors without a known size: s, and what the bodies of If_0 hold")
    assert f"at Relu '{name}' before and after" in peaks_fact(peak, peak)
