"""Measure how often what onnxpfp promises of a written file is false.

    python -m benchmarks.promises.coverage --shared ../shared --cache build/coverage [--tables]

`--shared` holds `models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`. `--cache` keeps the pruned files,
their plans and what became of every test image, so that a run can be stopped and continued; it takes about 15 minutes
of one core to fill. Files of another version of onnxpfp there have to be deleted by hand. Rows are written to
`promises_coverage.jsonl`, and the page is made from them, with `--tables` at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.accuracy.networks import NETWORKS, Folders
from benchmarks.promises.files import Pruner
from benchmarks.promises.page import page
from benchmarks.promises.rows import Row, read, write
from benchmarks.promises.searches import search_rows
from benchmarks.promises.splits import promise_rows

PROMISED = (90, 70, 50)
"""Percentages of the multiply-adds in files whose promises are tested."""
CANDIDATES = {
    "resnet20": (97, 95, 90, 85, 80, 75, 70, 67, 65, 60, 55, 50, 45),
    "resnet56": (90, 70, 60, 50),
}
"""The same of files that a search may find; ResNet-56 takes four times as long."""


def main() -> int:
    """Make the rows, then the page."""
    options = _parser().parse_args()
    file: Path = options.results / "promises_coverage.jsonl"
    if not options.tables:
        folders = Folders(options.shared, Path())
        write(file, [row for name in CANDIDATES for row in _rows(Pruner(name, folders, options.cache))])
    (options.results / "promises_coverage.md").write_text(page(read(file)), encoding="utf-8")
    return 0


def _rows(pruner: Pruner) -> list[Row]:
    title = NETWORKS[pruner.name].title.partition(",")[0]
    rows: list[Row] = []
    for percent in PROMISED:
        rows += promise_rows(title, percent, pruner.measured(percent))
        print(f"{title}: promises at {percent} %", file=sys.stderr, flush=True)
    rows += search_rows(title, [pruner.candidate(percent) for percent in CANDIDATES[pruner.name]])
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--cache", type=Path, default=Path("build/coverage"), help="folder of the pruned files")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--tables", action="store_true", help="only make the page from the rows that there are")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
