"""Prune networks with the defaults, and count what the whole command takes in forward passes of the same samples.

    python -m benchmarks.whole_command --shared ../shared --cache DIR [--before COMMIT] [--repo DIR]
        [--part whole,threads] [--only ocr,resnet56] [--append]

Beside onnxpfp it takes Pillow, the fonts of Debian's packages fonts-dejavu-core and fonts-liberation, Linux and git.
`--shared` holds `models/cifar10_*.onnx` and `data/cifar10_calib1k.npz`; the wheel of rapidocr-onnxruntime, which is
downloaded, and the networks that are made go into `--cache`. Torch-Pruning may be installed in another environment
(`benchmarks/accuracy/peers`), whose Python is `--peers`.

Parts: whole (one thread, processor seconds by phase, and memory, in turns with the forward pass), peers (a pruning of
Torch-Pruning, in turns with the forward pass), threads (by the clock, on several threads and beside busy processes:
leave the machine alone meanwhile). Rows are "after", of the checkout `--repo`, and "before", of a commit; both take
turns in one run. Rows are appended to `whole_command.jsonl` job by job, so that a run can be stopped and continued with
`--append`; without it the chosen rows are made anew, and the others stay. The page is made from that file at the end,
or at once with `--tables`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.job_list import make_each, names_among
from benchmarks.whole_command.codes import AFTER, BEFORE, at_commit, checkout
from benchmarks.whole_command.jobs import Settings, make
from benchmarks.whole_command.page import page
from benchmarks.whole_command.plan import PARTS, jobs, keys
from benchmarks.whole_command.rows import append, compact, read
from benchmarks.whole_command.subjects import NETWORKS, Places

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Make rows, then the page; return 1 where a job failed."""
    options = _parser().parse_args()
    file: Path = options.results / "whole_command.jsonl"
    names = [name for name, wanted in ((BEFORE, options.before), (AFTER, not options.only_before)) if wanted]
    wanted = [] if options.tables else jobs(options.part, options.only)
    if options.append:
        there = set(read(file))
        wanted = [job for job in wanted if not there.issuperset(keys(job, names, held=not options.free_blas))]
    options.results.mkdir(parents=True, exist_ok=True)
    places = Places(options.shared, options.cache, options.fonts, options.peers)
    failed = 0
    if wanted:
        with ExitStack() as stack:
            codes = [
                stack.enter_context(at_commit(ROOT, options.before)) if name == BEFORE else checkout(options.repo)
                for name in names
            ]
            settings = Settings(places, codes, options.rounds, held=not options.free_blas)
            failed = make_each(wanted, lambda job: append(file, make(job, settings)))
    compact(file)
    (options.results / "whole_command.md").write_text(page(list(read(file).values())), encoding="utf-8")
    return int(failed > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the CIFAR-10 networks and images")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the wheel and for networks made here")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype"), help="folder of fonts")
    parser.add_argument("--peers", type=Path, default=Path(sys.executable), help="Python that has Torch-Pruning")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--repo", type=Path, default=ROOT, help='checkout that is measured as "after"')
    parser.add_argument("--before", metavar="COMMIT", help='commit of this repository that is measured as "before"')
    parser.add_argument("--only-before", action="store_true", help='measure no "after"')
    parser.add_argument("--free-blas", action="store_true", help="do not hold BLAS to one thread in the part whole")
    parser.add_argument("--part", type=_parts, default=list(PARTS), help=f"of {','.join(PARTS)}, comma-separated")
    parser.add_argument("--only", type=_networks, default=list(NETWORKS), help="networks, comma-separated")
    parser.add_argument("--rounds", type=int, default=3, help="how often each command is run")
    parser.add_argument("--append", action="store_true", help="keep the rows that there are and make those that lack")
    parser.add_argument("--tables", action="store_true", help="measure nothing, only make the page")
    return parser


def _parts(text: str) -> list[str]:
    return names_among(text, tuple(PARTS), "parts")


def _networks(text: str) -> list[str]:
    return names_among(text, tuple(NETWORKS), "networks")


if __name__ == "__main__":
    raise SystemExit(main())
