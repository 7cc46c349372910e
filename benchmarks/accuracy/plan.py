"""Which rows the accuracy benchmark has, in the order in which they are worth having."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from benchmarks.accuracy.networks import NETWORKS, Network
from benchmarks.accuracy.peers import PEERS, Peer

__all__ = [
    "BARE",
    "CORESETS",
    "DEFAULT",
    "FEATURES",
    "FEW",
    "LETTER",
    "LOW_RANK",
    "MAIN",
    "OTHER_EXPORTS",
    "PARTS",
    "PEER_WAYS",
    "PLAIN",
    "RANKED",
    "REST",
    "ROUNDED",
    "STEPPED",
    "TARGETS",
    "UNREFITTED",
    "WITHOUT_DATA",
    "Job",
    "Way",
    "jobs",
]

TARGETS = (0.7, 0.5, 0.3, 0.9)
SHOWN = TARGETS[:3]
FACTORIZE = "factorize"
FIRST = (0,)
"""The seed of the rows that have one only."""


@dataclass(frozen=True, slots=True)
class Way:
    """One method.

    Attributes:
        method: Flags of `onnxpfp prune` after `--score`, `FACTORIZE` and its flags, or the name of a peer.
        with_norm: Whether the file is one whose BatchNormalization is not folded.
        seeds: Whether it has a row for every seed, or for the first alone.
        most: Most calibration images; None for all, 0 where no data are given.
        export: Another export than the usual one.
        peer: What runs it, where it is not onnxpfp.
    """

    method: str
    with_norm: bool = False
    seeds: bool = False
    most: int | None = None
    export: str | None = None
    peer: Peer | None = None

    @property
    def verb(self) -> str:
        """The verb of onnxpfp."""
        return FACTORIZE if self.method.split()[0] == FACTORIZE else "prune"

    @property
    def flags(self) -> list[str]:
        """What to type after the paths, the data, the target and the seed."""
        rounding = [] if "--round-to" in self.method else ["--round-to", "1"]
        words = self.method.removesuffix(f" ({self.most} images)").split()
        if self.verb == FACTORIZE:
            return [*words[1:], *rounding]
        effort = [] if "--effort" in self.method else ["--effort", "low"]
        return ["--score", *words, *effort, *rounding]

    def kind(self, network: Network) -> str:
        """Return which export of a network is pruned."""
        return self.export or (network.with_norm if self.with_norm else network.usual)


def _few(score: str, most: int) -> Way:
    return Way(f"{score} ({most} images)", seeds=True, most=most)


OURS = ("pfp", "reconstruction")
BASELINES = ("random", "l1", "l2", "fpgm", "bn-scale", "lamp", "wanda", "thinet", "hrank", "apoz", "chip")

DEFAULT = (Way("pfp --effort normal", seeds=True),)
MAIN = tuple(Way(score, seeds=True) for score in OURS)
RANKED = (Way("pfp --structure channels,rank --effort normal", seeds=True),)
PARTS = (
    Way("pfp --effort high", seeds=True),
    Way("pfp --structure channels,rank --effort high", seeds=True),
    Way("pfp --structure channels,blocks"),
    Way("pfp --structure channels,rank,blocks"),
    Way("pfp --structure channels,rank,blocks --effort normal"),
    Way("pfp --structure channels,rank", seeds=True),
)
"""What each part of a search brings: producers refitted, branches that go, and all of it."""
STEPPED = (Way("pfp --structure channels,rank --effort normal --steps 2", seeds=True),)
"""With a second step, which goes over all groups and layers once more."""
LOW_RANK = (Way(FACTORIZE, seeds=True), Way(f"{FACTORIZE} --compensate none"))
UNREFITTED = tuple(Way(f"{score} --compensate none", seeds=True) for score in OURS)
PEER_WAYS = tuple(Way(peer.name, with_norm=True, peer=peer) for peer in PEERS)
OTHER_ALLOCATIONS = tuple(Way(f"{score} --allocate {how}") for how in ("bound", "uniform") for score in OURS)
OTHER_CHOICES = (*(Way(f"pfp --select {how}") for how in ("deterministic", "sampled", "mixed")), Way("energy"))
LETTER = tuple(
    Way(f"pfp --select {how} --allocate bound --compensate none") for how in ("deterministic", "sampled", "mixed")
)
"""PFP to the letter: its sensitivities choose, its bound sets the widths, and nothing else is done."""
MEAN_SHARE = tuple(
    Way(f"mean-share{how}", seeds=True) for how in ("", " --allocate bound", " --allocate bound --compensate none")
)
"""Mean shares with measured widths, with one sum of them for all groups, and that alone."""
REFITTED = tuple(
    Way(score, with_norm=score == "bn-scale", seeds=score in {"random", "l2"}) for score in ("sipp", *BASELINES)
)
BARE = tuple(
    Way(f"{score} --compensate none", with_norm=score == "bn-scale")
    for score in ("mean-share", "energy", "sipp", *BASELINES)
    if score != "l2"
)
"""The same widths by measurement, but no refits; `FEATURES` has L2 so."""
PLAIN = tuple(
    Way(f"{score} --allocate uniform --compensate none", with_norm=score == "bn-scale")
    for score in (*OURS, "mean-share", *BASELINES)
)
"""Selection alone, as most papers and peers do it."""
FEATURES = (
    *(Way(f"feature-statistics{how}", seeds=True) for how in ("", " --maps before", " --sfs 0.7")),
    *(Way(f"{score} --compensate none", seeds=True) for score in ("feature-statistics", "l2")),
    Way("feature-statistics --maps before --compensate none", seeds=True),
    *(Way(f"feature-statistics --sfs 0.7 --compensate {how}", seeds=True) for how in ("none", "bias", "merge")),
)
"""Feature statistics by deviation alone and with twins first, with refits and without, and L2 without."""
REST = (*MEAN_SHARE, *OTHER_ALLOCATIONS, *LETTER, *OTHER_CHOICES, *REFITTED)
FEW = tuple(_few(score, 512) for score in OURS)
CORESETS = (Way("coreset"), Way("coreset --compensate none"), Way("coreset (0 images)", most=0))
"""Coresets as in their paper, with beta from the images, and by the weights alone."""
WITHOUT_DATA = (Way("pfp (0 images)", most=0), Way(f"{FACTORIZE} (0 images)", most=0))
ROUNDED = tuple(Way(f"{score} --round-to 8") for score in OURS)
OTHER_EXPORTS = tuple(Way(score, export=kind) for kind in ("bn", "dynamo") for score in OURS)

CIFAR = ("resnet20", "resnet56")
FMNIST = ("fmnist_resnet", "fmnist_densenet", "fmnist_mobilenet")
ORDER = (
    (CIFAR, (*DEFAULT, *RANKED), SHOWN),
    (CIFAR, (*MAIN, *LOW_RANK), TARGETS),
    ((*FMNIST, *CIFAR), PARTS, SHOWN),
    (CIFAR, MEAN_SHARE, TARGETS),
    (CIFAR, UNREFITTED, TARGETS),
    (CIFAR, PEER_WAYS, TARGETS),
    (FMNIST, (*DEFAULT, *RANKED), SHOWN),
    (("fmnist_densenet", "fmnist_mobilenet"), STEPPED, (0.5, 0.3)),
    (FMNIST, (*MAIN, *LOW_RANK, *UNREFITTED, *PEER_WAYS), TARGETS),
    ((*FMNIST, *CIFAR), WITHOUT_DATA, TARGETS),
    (CIFAR, OTHER_EXPORTS, (0.5,)),
    (CIFAR, ROUNDED, (0.7, 0.5)),
    (CIFAR, PLAIN, TARGETS),
    (CIFAR, FEW, (0.5,)),
    (("resnet20", *FMNIST), CORESETS, (0.7, 0.5)),
    (("resnet20", "fmnist_resnet"), FEATURES, (0.7, 0.5)),
    (("resnet20",), BARE, (0.7, 0.5)),
    (("resnet20",), REST, TARGETS),
    (("resnet56",), REST, TARGETS),
    (FMNIST, (*PLAIN, *REST), TARGETS),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One row to make."""

    network: str
    way: Way
    target: float
    seed: int


def jobs(networks: list[str], patterns: list[str], seeds: list[int], targets: list[float]) -> list[Job]:
    """List the rows that are asked for, each once.

    Args:
        networks: Names of networks.
        patterns: Globs, one of which the method must match.
        seeds: Seeds of the methods that have a row for each; the others have the first.
        targets: Shares of the multiply-adds.
    """
    wanted = (
        job
        for job in _all(seeds)
        if job.network in networks
        and job.target in targets
        and any(fnmatchcase(job.way.method, pattern) for pattern in patterns)
    )
    return list(dict.fromkeys(wanted))


def _all(seeds: list[int]) -> Iterator[Job]:
    for names, ways, targets in ORDER:
        for name in names:
            for way in ways:
                if way.export is None or way.export in NETWORKS[name].stems:
                    for target in targets:
                        for seed in seeds if way.seeds else FIRST:
                            yield Job(name, way, target, seed)
