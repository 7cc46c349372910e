"""Count which of the promises that onnxpfp prints say something, and which are broken.

    python -m benchmarks.promises.audit --shared ../shared [--score pfp,NAME] [--only GLOB,...] [--append]

Eight files of five trained networks are pruned to 0.9 and 0.7 of the multiply-adds: by PFP to the letter with its three
selections, and as by default, all with `--effort low`; so are those of other criteria, by `--score`. Every cut group
times every layer that reads it is one row. `eps` of the report is held against what the choice does on test images: for
every row, the largest relative error of a sign part with the inputs that the layer has before the choice, as eps says,
and the relative error of the layer's output in the written file, which eps does not promise. The choice error of the
report is held against the error of the layer's output in the mean square over the same images, of the choice alone, and
so are the bounds of the report's layers against the written file. `--shared` holds
`models/cifar10_*.onnx` and `data/cifar10_{calib1k,test5k}.npz`. Without `--append` the chosen
runs are made anew, and the others stay; tables are made from all, at once with `--only ''`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.accuracy.networks import NETWORKS, Folders, Network
from benchmarks.promises.audit_rows import Counts, Key, Record, append, compact, read, total
from benchmarks.promises.audit_runs import Way, counts_of, prune, ways, without_what_costs_nothing

TARGETS = (0.9, 0.7)
SEED = 0
NOWHERE = Path("nowhere")
"""In the place of the files that hold the labels of Fashion-MNIST: they are not needed."""
HEAD = ("rows", "eps below 1", "of these 0", "informative", "broken by the choice", "broken by the file")
ERRORS = ("choice errors", "error below 1", "error kept")
LAYERS = ("layers", "bounded below 1", "kept")


def main() -> None:
    """Make the runs that are asked for, then the page."""
    options = _parser().parse_args()
    file: Path = options.results / "promises_audit.jsonl"
    there = set(read(file)) if options.append else set[Key]()
    folders = Folders(options.shared, NOWHERE)
    for network, kind in _files(options.only):
        jobs = [(way, target) for way in ways(options.score) for target in TARGETS]
        left = [job for job in jobs if (network.stems[kind], job[0].name, job[1]) not in there]
        for record in _run(network, kind, folders, left, options.images, options.inputs) if left else ():
            append(file, record)
            print(record, file=sys.stderr, flush=True)
    compact(file)
    (options.results / "promises_audit.md").write_text(_page([*read(file).values()]), encoding="utf-8")


def _files(patterns: Sequence[str]) -> Iterator[tuple[Network, str]]:
    for network in NETWORKS.values():
        for kind, stem in network.stems.items():
            if any(fnmatchcase(stem, pattern) for pattern in patterns):
                yield network, kind


def _run(
    network: Network, kind: str, folders: Folders, jobs: Sequence[tuple[Way, float]], images: int, inputs: int
) -> list[Record]:
    """Prune a file in some ways, and count."""
    file = network.file(folders, kind)
    calibration = network.calibration(folders).drawn(SEED, images).x
    fresh = network.test(folders).drawn(SEED, inputs).x
    before = without_what_costs_nothing(file, calibration)
    runs = [prune(file, calibration, target, way) for way, target in jobs]
    counts = counts_of(file, before, runs, calibration, fresh)
    return [
        Record(file=file.stem, way=way.name, target=target, images=len(calibration), inputs=len(fresh), counts=each)
        for (way, target), each in zip(jobs, counts, strict=True)
    ]


def _page(records: Sequence[Record]) -> str:
    """Write the tables: all files by way and target, then by file."""
    by_way = {(record.way, record.target): f"`{record.way}`, {record.target:g}" for record in records}
    lines = [(title, [r for r in records if (r.way, r.target) == key]) for key, title in by_way.items()]
    files = dict.fromkeys(record.file for record in records)
    by_file = [(f"`{name}`", [r for r in records if r.file == name]) for name in files]
    text = f"""# Promises that say something

Made by `python -m benchmarks.promises.audit` from [promises_audit.jsonl](promises_audit.jsonl): {len(records)} runs
over {len(files)} files with `--effort low`, each with {_numbers(record.images for record in records)} calibration
images, held against {_numbers(record.inputs for record in records)} test images that no run has seen.
A row is a cut group that has an `eps`, times a layer that reads it. Informative: eps is below 1, above 0, and no test
image breaks it in the sense in which it is printed, of the choice alone. Broken, as far as eps is below 1: by the
choice, where a sign part of one image is further off than eps, with the inputs that the layer has before the choice; by
the file, where the output of the layer in the written network has a larger relative error for one image, which eps does
not promise. Choice errors: rows with a bound by held-out samples of the error of the choice alone, in the mean square;
those below 1, and of these the ones that are not below the error on the test images. Layers: those for which
the report bounds the error of a share of the inputs by less than 1, and those whose bound at least that share of the
test images keeps."""
    parts = [text, "## By way and target", _table("way, share of MACs", lines), "## By file", _table("file", by_file)]
    return "\n\n".join(parts) + "\n"


def _numbers(values: Iterable[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(set(values)))


def _table(first: str, lines: Sequence[tuple[str, Sequence[Record]]]) -> str:
    every = [record for _, records in lines for record in records]
    sums = [(title, total(records)) for title, records in lines] + [("all", total(every))]
    layered = any(record.counts.layers is not None for record in every)
    measured = any(record.counts.errors is not None for record in every)
    head = (first, "runs", *HEAD, *(ERRORS if measured else ()), *(LAYERS if layered else ()))
    numbers = [len(records) for _, records in lines] + [len(every)]
    body = [
        (title, str(runs), *_cells(counts, measured=measured, layered=layered))
        for (title, counts), runs in zip(sums, numbers, strict=True)
    ]
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _cells(counts: Counts, *, measured: bool, layered: bool) -> list[str]:
    rows = (counts.rows, counts.below, counts.zero, counts.informative, counts.broken_by_choice, counts.broken_by_file)
    errors = (counts.errors, counts.errors_below, counts.errors_kept) if measured else ()
    layers = (counts.layers, counts.bounded, counts.kept) if layered else ()
    return ["–" if each is None else f"{each:,}" for each in (*rows, *errors, *layers)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--score", type=_names, default=["pfp"], help="criteria, comma-separated")
    parser.add_argument("--only", type=_names, default=["*"], help="globs of files without .onnx, comma-separated")
    parser.add_argument("--append", action="store_true", help="keep the runs that there are and make those that lack")
    parser.add_argument("--images", type=int, default=256, help="calibration images")
    parser.add_argument("--inputs", type=int, default=128, help="test images")
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
