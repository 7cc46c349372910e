"""Tables of the accuracy benchmark, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.networks import NETWORKS, Network
from benchmarks.accuracy.plan import (
    BARE,
    CORESETS,
    DEFAULT,
    FEATURES,
    FEW,
    LETTER,
    LOW_RANK,
    MAIN,
    MEAN_SHARE,
    OTHER_EXPORTS,
    PARTS,
    PEER_WAYS,
    PLAIN,
    RANKED,
    REST,
    ROUNDED,
    STEPPED,
    TARGETS,
    UNREFITTED,
    WITHOUT_DATA,
    Way,
)
from benchmarks.accuracy.published import PUBLISHED, SOURCE, TITLE
from benchmarks.accuracy.rows import Row

__all__ = ["Rows", "by_file", "name_of", "original", "page", "spread"]

COLUMNS = tuple(sorted(TARGETS, reverse=True))
DETAILS = 0.5
"""The target at which agreement, weights and seconds are shown."""
OFF = 0.005
"""The share of multiply-adds is shown where it is further from the target."""
SHORT = (0.7, 0.5, 0.3)
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached at one share of the multiply-adds: at least the prototype's top-1, and then more."""

    network: str
    target: float
    least: float
    goal: float


GOALS = (
    Goal("resnet20", 0.7, 89.8, 90.5),
    Goal("resnet20", 0.5, 86.0, 88.0),
    Goal("resnet56", 0.7, 93.0, 93.2),
    Goal("resnet56", 0.5, 91.5, 92.3),
    Goal("resnet56", 0.3, 84.8, 88.0),
)
FMNIST_LOSS = 1.0
"""Points that the Fashion-MNIST networks may lose at half of the multiply-adds."""

INTRODUCTION = f"""Made by `python -m benchmarks.accuracy` from [accuracy.jsonl](accuracy.jsonl). Top-1 in percent on
5,000 test images of CIFAR-10 or 1,000 of Fashion-MNIST, at a share of the multiply-adds that the same code counts in
every written file; behind an @ is the share of a method that does not meet the target. All prune once, without
training, with the same 1,024 or 256 training images, without labels or gradients (Taylor alone uses both). ± is the
standard deviation over three seeds: of the order of the images, which says which of them are held out, and of all that
onnxpfp draws. Our rows have `--round-to 1` and `--effort low` where they do not say otherwise. Agreement with the
original in percent, the share of the weights that stays and the processor seconds of the whole command on one thread
are those at {DETAILS:g}. Peers prune the export whose BatchNormalization is not folded, like `bn-scale`. Rows with
`--effort normal`, with ranks and `--effort high`, of `pfp` alone at 0.3 to 0.7, of `factorize`, of
`feature-statistics`, of `l2` beside them, without images on Fashion-MNIST, on CIFAR-10 those with blocks, and on
ResNet-20 `--effort high` and, at 0.7 and 0.5, those of `sipp` and the baselines are of November 30 and December 1,
2026, other rows of onnxpfp of earlier code, whose refits drew more rows. Seconds of rows with `--effort normal`, with
ranks and `high`, and on CIFAR-10 with blocks and, on ResNet-20, with `high` are of a slower machine than the others.

`pfp --effort normal` is the default: PFP's sensitivities rank the channels of a group where their bound is below 1, and
mean output energy elsewhere (the report of a run names the groups); measured drift sets the widths, and all layers are
refitted, some together with those that read them (none with `--effort low`). PFP to the letter is `pfp --select
deterministic|sampled|mixed --allocate bound --compensate none`. `factorize` is no pruning: it puts two ops of low rank
in the place of one ([factorize](../../docs/factorize.md)); with `--structure channels,rank` these are chosen beside the
channels, as one."""

NAMES = {
    "pfp --effort normal": "default (output energy where PFP's bounds say nothing)",
    "pfp": "each layer refitted by itself (`--effort low`)",
    "pfp --compensate none": "nothing compensated",
    "pfp --structure channels,rank --effort normal": "channels and ranks (`--structure channels,rank`)",
    "factorize": "low rank (`onnxpfp factorize`)",
    **{way.method: f"PFP to the letter, {way.method.split()[2]}" for way in LETTER},
}
"""What a method is called where it is not shown by its flags."""

SPEED = """Median ratio of the processor times of the original and the pruned file, in turn on one thread, 50 images at
a time."""

Rows = dict[tuple[str, str], list[Row]]
"""Rows by model and method."""


def name_of(way: Way) -> str:
    """Return what a method of onnxpfp is called in short."""
    return NAMES.get(way.method, f"--score {way.method}")


def by_file(rows: Iterable[Row]) -> Rows:
    """Group the rows by the file that was pruned and by the method."""
    found: Rows = {}
    for row in rows:
        found.setdefault((row.model, row.method), []).append(row)
    return found


def _at(rows: Rows, network: Network, way: Way, target: float) -> list[Row]:
    model = network.stems[way.kind(network)]
    return [row for row in rows.get((model, way.method), []) if row.target == target]


def original(rows: Rows, network: Network) -> float | None:
    """Return the top-1 of the network as it was; None where it has no rows. Its exports compute the same."""
    stems = network.stems.values()
    return next((its[0].dense for (model, _), its in rows.items() if model in stems), None)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1); one value has none."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _number(values: Sequence[float]) -> str:
    mean, deviation = spread(values)
    return f"{mean:.1f} ± {deviation:.1f}" if len(values) > 1 else f"{mean:.1f}"


def _accuracy(rows: list[Row]) -> str:
    """Show top-1, and the share of multiply-adds where it is not the target."""
    reached = [row.top1 for row in rows if row.top1 is not None]
    if not reached:
        return "not reached" if rows else NOTHING
    share = statistics.fmean(row.macs for row in rows if row.macs is not None)
    return _number(reached) + ("" if abs(share - rows[0].target) <= OFF else f" @{share:.2f}")


def _table(head: Sequence[str], body: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _label(way: Way, rows: list[Row]) -> str:
    if way.peer is None:
        if way.most is None:
            return f"`{way.method}`"
        return f"`{way.method.split()[0]}`, {f'{way.most} images' if way.most else 'without data'}"
    return f"{rows[0].tool}, {way.peer.method}"


def _network_table(rows: Rows, network: Network, ways: Sequence[Way]) -> str:
    """One line a method: top-1 at every target, and more at one of them."""
    head = ["method", *(f"{target:g}" for target in COLUMNS), "agreement", "weights", "seconds"]
    body: list[list[str]] = []
    for way in ways:
        there = [row for target in COLUMNS for row in _at(rows, network, way, target)]
        if not there:
            continue
        cells = [_accuracy(_at(rows, network, way, target)) for target in COLUMNS]
        body.append([_label(way, there), *cells, *_details(_at(rows, network, way, DETAILS))])
    return _table(head, body)


def _details(rows: list[Row]) -> list[str]:
    done = [row for row in rows if row.top1 is not None]
    if not done:
        return [NOTHING] * 3
    agreement = _number([row.agreement for row in done if row.agreement is not None])
    weights = statistics.fmean(row.params for row in done if row.params is not None)
    return [agreement, f"{weights:.2f}", f"{statistics.fmean(row.seconds for row in done):.0f}"]


def _short(rows: Rows) -> str:
    """Our methods beside the best of each peer at every target, as the README shows them."""
    head = ["network (original)", "pruned by", *(f"top-1 at {target:g} of the MACs" for target in SHORT)]
    body: list[list[str]] = []
    for network in NETWORKS.values():
        dense = original(rows, network)
        if dense is None:
            continue
        title = f"{network.title} ({dense:.1f})"
        for way in (*DEFAULT, *MAIN, *RANKED, *LOW_RANK[:1], *MEAN_SHARE[:2], *LETTER):
            cells = [_accuracy(_at(rows, network, way, target)) for target in SHORT]
            if way not in MAIN and set(cells) == {NOTHING}:
                continue
            name = name_of(way) if way.method in NAMES else f"`{name_of(way)}`"
            body.append([title, f"onnxpfp, {name}", *(f"**{cell}**" for cell in cells)])
            title = ""
        for package in dict.fromkeys(way.peer.package for way in PEER_WAYS if way.peer):
            ways = [way for way in PEER_WAYS if way.peer and way.peer.package == package]
            bests = [_best(rows, network, ways, target) for target in SHORT]
            run = sum(any(_at(rows, network, way, target) for target in SHORT) for way in ways)
            body.append(["", f"{package}, best of {run} methods", *bests])
    return _table(head, body, left=2)


def _best(rows: Rows, network: Network, ways: Sequence[Way], target: float) -> str:
    reached = [row.top1 for way in ways for row in _at(rows, network, way, target) if row.top1 is not None]
    return f"{max(reached):.1f}" if reached else NOTHING


def _goals(rows: Rows) -> str:
    """What was to be reached, and what was."""
    head = ["network", "MACs", "prototype", "goal", *(f"`{way.method}`" for way in (*DEFAULT, *MAIN))]
    wanted = [(NETWORKS[goal.network], goal.target, f"{goal.least}", goal.least, goal.goal) for goal in GOALS]
    for network in NETWORKS.values():
        if network.name.startswith("fmnist"):
            dense = original(rows, network)
            if dense is not None:
                wanted.append((network, DETAILS, NOTHING, dense - FMNIST_LOSS, dense - FMNIST_LOSS))
    body: list[list[str]] = []
    for network, target, prototype, least, goal in wanted:
        cells = [_verdict(_at(rows, network, way, target), least, goal) for way in (*DEFAULT, *MAIN)]
        body.append([network.title, f"{target:g}", prototype, f"{goal:.1f}", *cells])
    return _table(head, body)


def _verdict(rows: list[Row], least: float, goal: float) -> str:
    """Show the mean, and whether it reaches the goal, only what the prototype did, or neither."""
    reached = [row.top1 for row in rows if row.top1 is not None]
    if not reached:
        return NOTHING
    mean, _ = spread(reached)
    # Both sides have the decimals that are shown.
    word = "goal" if round(mean, 1) >= goal else "prototype" if round(mean, 1) >= least else "below"
    return f"{_number(reached)}: {word}"


def _speed(rows: Rows, network: Network) -> str:
    head = ["method", *(f"top-1 at {t:g}" for t in (0.7, 0.5)), *(f"speed-up at {t:g}" for t in (0.7, 0.5))]
    body: list[list[str]] = []
    for way in (*MAIN, *ROUNDED):
        cells = [[row for row in _at(rows, network, way, target) if row.speedup is not None] for target in (0.7, 0.5)]
        if all(cells):
            ups = [f"{statistics.fmean(row.speedup for row in cell if row.speedup):.2f}x" for cell in cells]
            body.append([f"`{way.method}`", *map(_accuracy, cells), *ups])
    return _table(head, body)


def _of_exports(network: Network) -> list[Way]:
    return [way for way in OTHER_EXPORTS if way.export in network.stems]


def _exports(rows: Rows, network: Network) -> str:
    head = ["export", *(f"`{way.method}`" for way in MAIN)]
    body: list[list[str]] = []
    for kind in network.stems:
        ways = MAIN if kind == network.usual else [way for way in _of_exports(network) if way.export == kind]
        cells = [[row for row in _at(rows, network, way, DETAILS) if row.seed == 0] for way in ways]
        body.append([f"`{network.stems[kind]}`", *map(_accuracy, cells)])
    return _table(head, body)


def _published() -> str:
    head = ["method", "original", "after training", "difference", "times fewer MACs"]
    body = [
        [each.method, f"{each.base:.2f}", f"{each.after:.2f}", f"{each.after - each.base:+.2f}", f"{each.times:.2f}"]
        for each in PUBLISHED
    ]
    return _table(head, body)


def page(rows: list[Row]) -> str:
    """Write all tables."""
    found = by_file(rows)
    parts = [
        "# Accuracy without training",
        INTRODUCTION,
        "![Top-1 over the share of MACs, per network](accuracy.svg)",
        "## In short",
        _short(found),
        "## Goals",
        "Mean top-1 over the seeds, beside that of the prototype of the refit (on 10,000 test images).",
        _goals(found),
    ]
    ours = (
        *DEFAULT,
        *MAIN,
        *RANKED,
        *STEPPED,
        *PARTS,
        *LOW_RANK,
        *UNREFITTED,
        *FEATURES,
        *REST,
        *BARE,
        *PLAIN,
        *FEW,
        *CORESETS,
        *WITHOUT_DATA,
    )
    for network in NETWORKS.values():
        dense = original(found, network)
        if dense is not None:
            table = _network_table(found, network, (*ours, *PEER_WAYS))
            parts += [f"## {network.title}", f"Original: {dense:.2f}.", table]
    parts += [f"## {TITLE}", SOURCE, _published()]
    for network in NETWORKS.values():
        if len(network.stems) > 1 and any(_at(found, network, way, DETAILS) for way in _of_exports(network)):
            parts += [f"## {network.title}: its exports, pruned to {DETAILS:g}, seed 0", _exports(found, network)]
    for network in NETWORKS.values():
        if any(_at(found, network, way, DETAILS) for way in ROUNDED):
            parts += [f"## {network.title}: widths and speed", SPEED, _speed(found, network)]
    return "\n\n".join(parts) + "\n"
