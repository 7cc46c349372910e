"""What is measured in which runs of the network.

Weights are held in the layouts of the measurement, too: where they are too large for that, the samples are run over
several times. Readers need the first samples only, observers all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, zip_longest
from typing import cast

from onnxpfp.calibrate.observer import Batch, Observer
from onnxpfp.calibrate.probe import shard_readers
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.linear.families import OpFamily, shard_families
from onnxpfp.linear.ops import LinearOp

__all__ = ["Pass", "Run", "parts_of", "passes_of"]


@dataclass(frozen=True, slots=True)
class Pass:
    """What is measured in one pass over the samples.

    Attributes:
        families: What is screened.
        readers: What the graph measures.
        observers: Who else looks on.
    """

    families: tuple[OpFamily, ...]
    readers: tuple[LinearOp, ...]
    observers: tuple[Observer, ...]

    @property
    def shown(self) -> tuple[OpFamily, ...]:
        """Whose inputs the network hands out: those of the families, then those of the observers."""
        return (*self.families, *(OpFamily((observer.reader,)) for observer in self.observers))


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of the network.

    Attributes:
        feed: What is fed.
        samples: How many samples that is.
        batch: The same by their numbers among all samples.
        counts: Whether readers are measured on it.
    """

    feed: Feed
    samples: int
    batch: Batch
    counts: bool


def passes_of(
    families: Sequence[OpFamily], readers: Sequence[LinearOp], observers: Sequence[Observer], workspace: int
) -> Iterator[Pass]:
    """Cut what is to be measured into passes; observers look on in the first.

    Args:
        families: What is screened.
        readers: What the graph measures.
        observers: Who else looks on; they hold no weights.
        workspace: Bytes that the weights of the families of one pass may take.
    """
    looking = tuple(observers)
    shards = zip_longest(shard_families(families, workspace), shard_readers(readers), fillvalue=())
    for some, others in shards if families or readers else [((), ())]:
        yield Pass(cast("tuple[OpFamily, ...]", some), cast("tuple[LinearOp, ...]", others), looking)
        looking = ()


def parts_of(
    passes: Sequence[Pass], samples: Samples, batch: int, border: int, first: int = 0
) -> Iterator[tuple[Pass, Iterator[Run]]]:
    """Yield what is measured with its runs; behind the samples that count, observers are alone.

    Args:
        passes: What is measured in each.
        samples: What is fed.
        batch: Samples in one run.
        border: How many samples count.
        first: Number of the first sample, where these are a shard of all samples.
    """
    for each in passes:
        for counts, runs in groupby(_runs(samples, batch, border, first), lambda run: run.counts):
            if not counts and not each.observers:
                break
            yield each if counts else Pass((), (), each.observers), runs


def _runs(samples: Samples, batch: int, border: int, offset: int) -> Iterator[Run]:
    """Yield the runs over all samples; a batch across the border is cut there, so that exactly those before it count.

    Only a free batch can lie across it, and has its samples along axis 0 of every input.
    """
    done = 0
    for feed, count in samples.runs(batch):
        cuts = [0, border - done, count] if done < border < done + count else [0, count]
        for first, last in pairwise(cuts):
            part = feed if last - first == count else {name: array[first:last] for name, array in feed.items()}
            yield Run(part, last - first, Batch(offset + done, last - first), done < border)
            done += last - first
