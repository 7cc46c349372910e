"""The benchmark of quantization quantizes, prunes what came out, and shows what it measured."""

from __future__ import annotations

from pathlib import Path

import nets
import onnx

from benchmarks.quantization import Row, page, quantize


def test_a_quantized_file_is_that_of_onnxruntime_and_close(tmp_path: Path) -> None:
    images = nets.fmnist("calibration", 64)
    quantize(nets.network("resnet"), tmp_path / "q.onnx", images)
    quantized = onnx.load(tmp_path / "q.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in quantized.graph.node}
    original = onnx.load(nets.network("resnet"))
    assert abs(nets.top1(quantized, 200) - nets.top1(original, 200)) < 0.03


def test_rows_of_several_seeds_are_one_line() -> None:
    rows = [
        Row("resnet20", "original", 1.0, 0, 1.0, 91.7, 1000, 1.0),
        *(Row("resnet20", "pruned", 0.5, seed, 0.5, top1, 500, 0.7) for seed, top1 in enumerate((86.0, 88.0))),
    ]
    table = [line for line in page(rows).splitlines() if line.startswith("|")][2:]
    assert table == [
        "| ResNet-20, CIFAR-10 | 1 | as it is | 91.7 | 1,000 | 1.00 |",
        "|  | 0.5 | pruned | 87.0 ± 1.4 | 500 | 0.70 |",
    ]
