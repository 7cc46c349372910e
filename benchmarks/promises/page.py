"""The page of the coverage benchmark, made from its rows."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence

from benchmarks.promises.chance import likely, mean_failures
from benchmarks.promises.rows import PromiseRow, Row, SearchRow
from benchmarks.promises.schemes import Scheme

__all__ = ["page"]

INTRODUCTION = """Made by `python -m benchmarks.promises.coverage` from
[promises_coverage.jsonl](promises_coverage.jsonl). ResNet-20 and ResNet-56 of CIFAR-10 are pruned by onnxpfp
(`--round-to 1 --effort low`, other options by default, one seed) with 1,024 training images to a share of their
multiply-adds. The 5,000 test images run through the original and the pruned file once. Then held-out images are drawn
200 times for every file, promises are made from them by onnxpfp's own functions, and looked up on the images that are
the truth. A promise fails where the truth is on its wrong side."""

PROMISES = """- **agreement**: at least so many inputs keep their top-1 class (exact binomial);
- **drift of 90%**, 95%, 99%: so many inputs have a relative output error of at most so much (order statistic; none
  where the images are too few);
- **largest drift**: the same of the largest held-out error and the share alpha^(1/n) of inputs that it covers;
- **mean drift**: the mean over inputs of the error, clipped at 1, is at most so much (betting);
- **all layers**: at every convolution and linear layer but the first a share of the inputs (0.95, and 0.9 where the
  images are too few for that) has an error of at most so much, at all of them together (order statistics at
  alpha / L)."""

CHANCE = """**What chance allows.** Two ways of drawing are shown.

*Splits*: the truth is the rest of the 5,000 images. It is a sample as well, and one that leans the other way: where the
held-out images agree too often, the rest agrees too seldom. So even an exact bound fails more often than alpha: at half
and half in 0.12 of the splits for alpha = 0.05 and in 0.28 for 0.2, before counts are rounded. "exact" is the rate at
which an exact bound fails in such splits: for agreement and order statistics the very probability, by the
hypergeometric distribution of these counts, with scipy's quantiles; for the mean the rate of a bound that leaves room
for just the normal quantile, which no bound without assumptions can have; for all layers at most the sum over the
layers. The splits of one pool overlap, but given the pool and the file each is drawn anew, so the number of failures is
binomial with that rate, and "likely" is where it lies with a probability of 0.99. What the splits cannot tell is how
the rate itself depends on the pool, of which there is one.

*Pool*: images are drawn with replacement, and all 5,000 are the truth. An exact promise then fails in at most alpha of
the draws; because counts are whole numbers, often in less, and "exact" says in how many. This is the confidence that is
printed.

All promises of a file share the draws, every file has its own."""

TIGHT = """Medians over 200 splits, alpha = 0.05: what is promised / what is true of the rest. Of all layers the medians
over the layers. The largest drift promises other shares at other numbers of images. The mean is promised of losses
anywhere in [0, 1]: as a loss of 1 that has a probability of p is missed by n images with one of (1 - p)^n, no bound for
all of them can be less than 1 - alpha^(1/n) where all that is seen is 0: 0.023 of 128 images, 0.0058 of 512, 0.0012 of
2,500. That is why it fails less often than a normal quantile would."""

SEARCHES = """The candidates are files with other shares of the multiply-adds, so many as the table says. {row.trials}
times, {row.tuning} test images are for tuning, {row.held_out} are held out, and the other {others:,} are the truth.
"onnxpfp" is its own search over these files (`--min-agreement`, `--max-drift`, `--confidence 0.95`): tuning images set
an order, held-out images test it. "while it is observed" goes on while all {together} images together have what is
asked for. A file is false where the truth does not hold the target. Also here the truth is a sample: a test that is
exact fails in up to {rate:.3f} of the draws, not in {row.alpha:g}. Where nothing is found the share of the
multiply-adds counts as 1; "best" is the smallest candidate that holds the target on all images."""

WIDTH = 120
LEVELS = (0.05, 0.2)


def page(rows: Sequence[Row]) -> str:
    """Write all tables."""
    promises = [row for row in rows if isinstance(row, PromiseRow)]
    searches = [row for row in rows if isinstance(row, SearchRow)]
    parts = ["# Whether promises hold", INTRODUCTION, PROMISES, CHANCE, "## In short"]
    for from_pool in (False, True):
        some = [row for row in promises if row.from_pool is from_pool]
        parts += [f"### {_way(from_pool)}, all files together", _short(some)]
    parts += ["## Outside of what chance allows", _outside(promises), "## How tight", TIGHT, _tight(promises)]
    if searches:
        parts += ["## Searched targets", _about_searches(searches[0]), _searches(searches)]
    parts.append("## File by file")
    for model, percent in dict.fromkeys((row.model, row.percent) for row in promises):
        its = [row for row in promises if (row.model, row.percent) == (model, percent)]
        parts += [f"### {_file(its[0])}: failures of {its[0].trials} draws / exact", _details(its)]
    return "\n\n".join(parts) + "\n"


def _way(from_pool: bool) -> str:
    return "Pool" if from_pool else "Splits"


def _file(row: PromiseRow) -> str:
    return f"{row.model}, {row.percent} % of the MACs, {100 * row.agreement:.1f} % agree"


def _table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _cells(rows: Sequence[PromiseRow], show: Callable[[list[PromiseRow]], list[str]], width: int) -> list[list[str]]:
    """Return a line for every promise and number of held-out images, with cells for every level of alpha."""
    body: list[list[str]] = []
    for promise, held_out in dict.fromkeys((row.promise, row.held_out) for row in rows):
        line = [promise, f"{held_out:,}"]
        for alpha in LEVELS:
            some = [row for row in rows if (row.promise, row.held_out, row.alpha) == (promise, held_out, alpha)]
            line += show(some) if some else ["-"] * width
        body.append(line)
    order = list(dict.fromkeys(row.promise for row in rows))
    return sorted(body, key=lambda line: order.index(line[0]))


def _short(rows: Sequence[PromiseRow]) -> str:
    """Failures over all files, in percent of the draws."""

    def show(some: list[PromiseRow]) -> list[str]:
        trials = sum(row.trials for row in some)
        failures = sum(row.failures for row in some)
        low, high = _likely(some)
        exact = statistics.fmean(row.expected for row in some)
        least = "" if some[0].at_most else f"{100 * low / trials:.1f} to "
        bound = "at most " if some[0].at_most else ""
        return [
            f"**{100 * failures / trials:.1f}**",
            f"{bound}{100 * exact:.1f}",
            f"{least}{100 * high / trials:.1f}",
        ]

    columns = [f"{name}, alpha {alpha:g}" for alpha in LEVELS for name in ("fails, %", "exact", "likely")]
    return _table(["promise", "held out", *columns], _cells(rows, show, 3))


def _likely(rows: Sequence[PromiseRow]) -> tuple[int, int]:
    """Return the range of the failures of some rows together; of an upper bound of a rate only the upper end counts."""
    trials = sum(row.trials for row in rows)
    low, high = likely(trials, sum(row.trials * row.expected for row in rows) / trials)
    return (0 if rows[0].at_most else low), high


def _outside(rows: Sequence[PromiseRow]) -> str:
    """Say which rows fail too often or too seldom."""
    often = [row for row in rows if row.failures > _likely([row])[1]]
    seldom = [row for row in rows if row.failures < _likely([row])[0]]
    by_chance = math.ceil(0.005 * sum(1 if row.at_most else 2 for row in rows))
    text = (
        f"Of {len(rows)} rows (file, way of drawing, held-out images, alpha, promise), {len(often)} fail more often "
        f"than is likely and {len(seldom)} less often; chance alone would put up to {by_chance} outside, half of them "
        "on either side."
    )
    parts = [text]
    kinds = dict.fromkeys(row.promise for row in seldom)
    if seldom:
        counts = (f"{kind} {sum(row.promise == kind for row in seldom)}" for kind in kinds)
        parts.append(f"Less often: {', '.join(counts)}.")
    if often:
        head = ["file", "draws", "held out", "alpha", "promise", "failures", "exact", "likely at most"]
        body = [
            [
                _file(row),
                _way(row.from_pool).lower(),
                f"{row.held_out:,}",
                f"{row.alpha:g}",
                row.promise,
                str(row.failures),
                f"{row.trials * row.expected:.1f}",
                str(_likely([row])[1]),
            ]
            for row in often
        ]
        parts += ["More often:", _table(head, body, left=2)]
    return "\n\n".join(parts)


def _tight(rows: Sequence[PromiseRow]) -> str:
    some = [row for row in rows if not row.from_pool and row.alpha == LEVELS[0]]
    files = list(dict.fromkeys((row.model, row.percent) for row in some))
    head = ["promise", "held out", *(f"{model} {percent} %" for model, percent in files)]
    body: list[list[str]] = []
    for promise in dict.fromkeys(row.promise for row in some):
        for held_out in dict.fromkeys(row.held_out for row in some):
            its = {(row.model, row.percent): row for row in some if (row.promise, row.held_out) == (promise, held_out)}
            if its:
                cells = (f"{its[f].promised:.3f} / {its[f].true:.3f}" if f in its else "-" for f in files)
                body.append([promise, f"{held_out:,}", *cells])
    return _table(head, body)


def _about_searches(row: SearchRow) -> str:
    scheme = Scheme(row.held_out, False, row.trials)
    rate = mean_failures(scheme, row.pool - row.tuning, row.alpha)
    others = row.pool - row.tuning - row.held_out
    text = SEARCHES.format(row=row, others=others, together=row.tuning + row.held_out, rate=rate)
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _searches(rows: Sequence[SearchRow]) -> str:
    head = ["network", "candidates", "target", "way", "found", "false", "MACs", "best", "true of it"]
    body = [
        [
            row.model,
            str(row.candidates),
            f"{row.quantity} {'at least' if row.quantity == 'agreement' else 'at most'} {row.target:g}",
            row.way,
            f"{row.found} of {row.trials}",
            f"**{row.false}**",
            f"{row.macs:.3f}",
            f"{row.best:.3f}",
            "-" if row.true is None else f"{row.true:.3f}",
        ]
        for row in rows
    ]
    return _table(head, body, left=4)


def _details(rows: Sequence[PromiseRow]) -> str:
    def cell(row: PromiseRow) -> str:
        bound = "at most " if row.at_most else ""
        return f"{row.failures} / {bound}{row.trials * row.expected:.1f}"

    def show(some: list[PromiseRow]) -> list[str]:
        return [next((cell(row) for row in some if row.from_pool is way), "-") for way in (False, True)]

    columns = [f"{_way(way).lower()}, alpha {alpha:g}" for alpha in LEVELS for way in (False, True)]
    return _table(["promise", "held out", *columns], _cells(rows, show, 2))
