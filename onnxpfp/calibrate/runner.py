"""One runner: a network runs over samples, and observers see the tensors that they need.

What comes out of one run fits the workspace: batches get smaller, and where one sample is too much, the samples run
several times. Each tensor comes out once, however many observers need it; observers are worked on side by side, while
the next batch runs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import onnx
from onnx import ModelProto, ValueInfoProto

from onnxpfp.calibrate.batch_size import AIMED_BYTES, choose_batch, observers_by_pass, tensor_bytes
from onnxpfp.calibrate.looks import Looks
from onnxpfp.calibrate.observer import Batch, Observer, Shape
from onnxpfp.calibrate.sample_views import needs_of, sample_views
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.errors import ModelError
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.edit import drop_unread, forget_records
from onnxpfp.options import DEFAULT_WORKSPACE
from onnxpfp.progress import Count
from onnxpfp.runtime.binding import DeviceOutputs, ReusedOutputs
from onnxpfp.runtime.device_memory import DeviceMemory
from onnxpfp.runtime.heap import Ceiling
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.scratch import temporary_folder
from onnxpfp.runtime.session import Session, as_requests, open_session
from onnxpfp.runtime.workers import Workers, side_by_side, workers

__all__ = ["NetworkRunner", "run_observers"]

_LOG = logging.getLogger(__name__)

_IN_MEMORY = 1_500_000_000


def run_observers(
    model: ModelProto,
    observers: Sequence[Observer],
    samples: Samples,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    providers: str | Sequence[str] | Sequence[ProviderRequest] = "cpu",
    threads: int | None = None,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    progress: Count | None = None,
    first_sample: int = 0,
    layout: bool = True,
) -> None:
    """Let observers see all samples.

    Args:
        model: The network; it is not changed. No more of it runs than the observers need.
        observers: Who looks on; those that need the same tensors stand side by side.
        samples: What to feed.
        batch_size: Most samples in one run; None chooses.
        limit: What else bounds them, as in `choose_batch`.
        providers: As in `open_session`.
        threads: Threads of the network's ops, and observers worked on at once; None takes all cores.
        workspace_bytes: Memory that the tensors of one run may take, as far as one observer can keep it.
        progress: Told how many samples are done, of how many; each counts once in every pass.
        first_sample: Number of the first sample, where these are a shard of all samples.
        layout: As in `open_session`.

    Raises:
        CalibrationError: The data do not fit, or the network computes NaN on them.
        ModelError: onnxruntime cannot run the network.
        ProviderError: A provider that was asked for is missing.
    """
    batch = choose_batch(needs_of(observers), samples, batch_size, workspace_bytes, limit)
    passes = list(observers_by_pass(observers, batch, samples, workspace_bytes))
    runner = NetworkRunner(
        with_fixed_draws(model),
        samples,
        batch,
        as_requests(providers),
        threads,
        total=len(passes) * len(samples),
        progress=progress,
        first_sample=first_sample,
        layout=layout,
        shrinks=batch_size is None,
        workspace=workspace_bytes,
    )
    for each in passes:
        runner.run(each)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One run of the network: what is fed, and which samples that is."""

    feed: Feed
    batch: Batch

    def part(self, samples: Samples, first: int, last: int) -> _Run:
        """Return the run of some of the samples."""
        feed = samples.part(self.feed, self.batch.samples, first, last)
        return _Run(feed, Batch(self.batch.first + first, last - first))


@dataclass(slots=True, eq=False)
class NetworkRunner:
    """Runs a network over samples, pass by pass.

    Attributes:
        model: The network; it is not changed.
        samples: What to feed.
        batch: Samples in one run.
        requests: Where to run.
        threads: As in `run_observers`.
        total: Samples of all passes together.
        progress: As in `run_observers`.
        first_sample: As in `run_observers`.
        layout: As in `run_observers`.
        shrinks: Whether the samples go on one by one where a batch fails: many exports promise a free batch axis and
            have a Reshape that fixes it to one.
        workspace: Memory that the tensors of all batches that are there at once may take, as far as two can keep it;
            freed memory goes back to the system where there is more than half of that.
        place: Where tensors can stay; None where they come to the host.
    """

    model: ModelProto
    samples: Samples
    batch: int
    requests: Sequence[ProviderRequest]
    threads: int | None
    total: int
    progress: Count | None = None
    first_sample: int = 0
    layout: bool = True
    shrinks: bool = False
    workspace: int = DEFAULT_WORKSPACE
    place: DeviceMemory | None = None
    _done: int = field(default=0, init=False)
    _single: bool = field(default=False, init=False)

    def run(
        self, observers: Sequence[Observer], network: ModelProto | None = None, staying: Sequence[str] = ()
    ) -> None:
        """Run once over the samples.

        Args:
            observers: Who looks on.
            network: The network with more tensors (a probe); None is the network as it is.
            staying: Tensors that stay in `place`.
        """
        ceiling = Ceiling.above(self.workspace // 2)
        # Observers are worked on side by side: none may take all cores for itself.
        with (
            workers(self.threads) as helpers,
            self._forward(self.model if network is None else network, needs_of(observers), staying, helpers) as forward,
        ):
            looks = Looks(helpers)
            for one, tensors in self._outputs(forward, helpers):
                ceiling.keep()
                self._show(one, tensors, observers, looks)
                # The next run needs the memory of this one.
                del tensors
                # Samples that run one by one come out in the same memory.
                self._tell(looks.end(one.batch.samples, 0 if self._single else forward.behind))
                ceiling.keep()
            self._tell(looks.end(0, 0))

    def _show(self, one: _Run, tensors: Mapping[str, Any], observers: Sequence[Observer], looks: Looks) -> None:
        """Let observers begin to look at what a run gave."""
        for some, seen, batch in sample_views(observers, {**one.feed, **tensors}, one.batch, self.samples.axes):
            looks.begin(some, seen, batch)

    def _tell(self, samples: int) -> None:
        """Say that so many more samples are done."""
        self._done += samples
        if self.progress and samples:
            self.progress(self._done, self.total)

    def _runs(self) -> Iterator[_Run]:
        """Yield all runs."""
        done = self.first_sample
        for feed, count in self.samples.runs(self.batch):
            yield _Run(feed, Batch(done, count))
            done += count

    def _outputs(self, forward: _Forward, helpers: Workers) -> Iterator[tuple[_Run, Mapping[str, Any]]]:
        """Yield the runs with what comes out of them; sample by sample from the first batch on that fails."""
        most = forward.slots - forward.behind
        attempts = helpers.in_order(partial(self._attempt, forward), enumerate(self._runs()), most)
        for run, tensors in attempts:
            if tensors is not None:
                yield run, tensors
                # As above.
                del tensors
                continue
            for one in (run.part(self.samples, *bounds) for bounds in pairwise(range(run.batch.samples + 1))):
                yield one, forward.run(one.feed)

    def _attempt(self, forward: _Forward, numbered: tuple[int, _Run]) -> tuple[_Run, Mapping[str, Any] | None]:
        """Run the samples of a batch at once; None where they have to run one by one."""
        number, run = numbered
        count = run.batch.samples
        if self._single and count > 1:
            return run, None
        try:
            return run, forward.run(run.feed, number)
        except ModelError as error:
            if count == 1 or not self.shrinks or self.samples.fixed_batch is not None:
                raise
            if not self._single:
                _LOG.warning("the model fails at batch %d and is run sample by sample: %s", count, error)
            self._single = True
            return run, None

    @contextmanager
    def _forward(
        self, network: ModelProto, needs: Mapping[str, Shape], staying: Sequence[str], helpers: Workers
    ) -> Generator[_Forward]:
        """Open a session of the network that hands out tensors; its inputs are at hand."""
        inputs = {info.name for info in network.graph.input} - {tensor.name for tensor in network.graph.initializer}
        names = [name for name in needs if name not in inputs]
        if not names:
            yield _Forward((lambda feed: {},))
            return
        there = self.place if staying else None
        on_host = there is None and all(request.name == CPU for request in self.requests)
        at_once, ahead, behind = self._overlap(needs, helpers.count) if on_host else (1, 1, 0)
        # Batches run side by side; only what is left of the threads works inside of an op.
        threads = self.threads if at_once == 1 else helpers.count // at_once
        # Large outputs would lie in an arena among intermediates, which then never go back; small ones can stay.
        options = {"threads": threads, "layout": self.layout, "arena": self._bytes_of_run(needs) <= AIMED_BYTES}
        with _session(network, names, self.requests, **options) as session:
            if there is not None:
                yield _Forward((DeviceOutputs(session, staying, there).run,))
            else:
                yield _Forward(tuple(ReusedOutputs(session, names).run for _ in range(ahead + behind + 1)), behind)

    def _bytes_of_run(self, needs: Mapping[str, Shape]) -> int:
        """Return the bytes that a run hands out; a fixed batch counts in the shapes already."""
        return tensor_bytes(needs) * (1 if self.samples.fixed_batch else self.batch)

    def _overlap(self, needs: Mapping[str, Shape], threads: int) -> tuple[int, int, int]:
        """Return how many batches run side by side, run or wait to be looked at, and are looked at behind the last.

        Whoever waits for a batch runs the next one meanwhile, so there should be one more for the other threads. Some
        observers take long, and those that are done should not wait for them. Both take memory.
        """
        at_once = side_by_side(threads, -(-len(self.samples) // (self.samples.fixed_batch or self.batch)))
        if at_once == 1:
            return 1, 1, 0
        # What runs is held by onnxruntime, too.
        room = self.workspace // max(self._bytes_of_run(needs), 1) - at_once
        for ahead, behind in ((at_once + 1, 1), (at_once, 1)):
            if ahead + behind <= room:
                return at_once, ahead, behind
        return at_once, at_once, 0


@dataclass(frozen=True, slots=True, eq=False)
class _Forward:
    """Runs of a network, some of them side by side.

    Attributes:
        ways: Ways to run it, whose outputs lie in memory of their own; the last one is for samples that run one by one,
            unless it is the only one.
        behind: Batches whose outputs are still looked at while those of the next one are.
    """

    ways: Sequence[Callable[[Feed], Mapping[str, Any]]]
    behind: int = 0

    @property
    def slots(self) -> int:
        """Batches whose outputs may be there at once."""
        return max(1, len(self.ways) - 1)

    def run(self, feed: Feed, number: int = -1) -> Mapping[str, Any]:
        """Run a feed.

        Args:
            feed: The feed.
            number: Of the batch; what came out of the one that many slots before is overwritten.
        """
        return self.ways[number % self.slots if number >= 0 else -1](feed)


def _showing(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Copy a model with other outputs, and without what only served its own; one that has them is returned as it is.

    Raises:
        ModelError: The main graph has no tensor of that name.
    """
    before = [output.name for output in model.graph.output]
    if set(before) == set(names):
        return model
    known = {name for node in model.graph.node for name in node.output} | {
        item.name for item in model.graph.initializer
    }
    for name in names:
        if name not in known:
            raise ModelError(f"the model has no tensor {name!r} to calibrate on")
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names)
    drop_unread(shown.graph, before)
    return forget_records(shown)


@contextmanager
def _session(
    network: ModelProto, names: Sequence[str], requests: Sequence[ProviderRequest], **options: Any
) -> Generator[Session]:
    """Open a network with other outputs in memory, or through a file of its own where protobuf cannot serialise it."""
    if sum(len(tensor.raw_data) for tensor in network.graph.initializer) < _IN_MEMORY:
        yield open_session(partial(_showing, network, names), requests, **options)
        return
    folder = temporary_folder()
    try:
        path = folder / "network.onnx"
        shown = _showing(network, names)
        cast("Any", onnx).save_model(shown, path, save_as_external_data=True, location="network.data")
        yield open_session(path, requests, **options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
