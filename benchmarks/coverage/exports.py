"""Export networks of every family with torch's two exporters, cut half of their channels, and check the oracle.

    pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 transformers==5.23.0 onnxscript
    python -m benchmarks.coverage.exports --out DIR [--only PATTERN ...] [--results benchmarks/results]

The networks (`benchmarks/coverage/architectures/`) have random weights, so nothing is downloaded. Each export and each
pruning runs in a process of its own with a time limit; an exported file is written to DIR and used again by the next
run. Of every group of channels half stay (rounded up), drawn by chance, and the pruned network is held against the
original with the removed channels masked, as `onnxpfp prune` does it. MACs are counted in the files.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

# A pool of threads that has run does not survive a fork, and building the list already computes.
import torch

torch.set_num_threads(1)

from benchmarks.coverage.architectures.catalogue import NETS  # noqa: E402
from benchmarks.coverage.architectures.export import export  # noqa: E402
from benchmarks.coverage.architectures.net import Net  # noqa: E402
from benchmarks.coverage.exports_report import Row, line, report, summary  # noqa: E402
from benchmarks.coverage.uniform_cut import Cut, cut  # noqa: E402

EXPORT_SECONDS, CUT_SECONDS = 900, 900


def apart(job: Callable[[], object], seconds: int) -> tuple[object, str]:
    """Run a job in a process of its own; return its result and what went wrong."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        try:
            there.send((job(), ""))
        except BaseException as error:
            traceback.print_exc()
            lines = str(error).splitlines() or [""]
            there.send((None, f"{type(error).__name__}: {lines[0]}"))

    process = context.Process(target=work)
    process.start()
    there.close()
    try:
        answer = here.recv() if here.poll(seconds) else (None, f"not done after {seconds} s")
    except EOFError:
        process.join()
        answer = (None, f"died with exit code {process.exitcode}")
    process.kill()
    process.join()
    return answer


def problem(net: Net, exporter: str, folder: Path) -> Row:
    """Export one network if need be, and cut it."""
    name = (net.name, net.source, exporter, net.peer)
    file = folder / f"{net.source}.{net.name}.{exporter}.onnx"
    if not file.exists():
        _, failure = apart(lambda: export(net, exporter, file), EXPORT_SECONDS)
        if failure:
            return Row(*name, None, f"does not export: {failure}")
    found, failure = apart(lambda: cut(file), CUT_SECONDS)
    return Row(*name, found if isinstance(found, Cut) else None, failure)


def main() -> int:
    """Run all networks; the exit code says whether any fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported files")
    parser.add_argument("--only", nargs="*", help="patterns on 'source.model.exporter'; no results are written then")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--log", type=Path, help="append every row as a line of JSON")
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True, parents=True)
    rows: list[Row] = []
    for net, exporter in [(each, exporter) for each in NETS for exporter in each.exporters]:
        title = f"{net.source}.{net.name}.{exporter}"
        if options.only and not any(fnmatch.fnmatch(title, pattern) for pattern in options.only):
            continue
        rows.append(problem(net, exporter, options.out))
        print(line(rows[-1]), flush=True)
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(rows[-1])) + "\n")
    print(summary(rows))
    if not options.only:
        options.results.mkdir(exist_ok=True)
        (options.results / "exports.md").write_text(report(rows))
    return int(any(row.failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
