"""The evaluator: how far the outputs of other models are from the original's, on given samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from onnx import ModelProto

from onnxpfp.arrays import Arrays, owned
from onnxpfp.comparison.decisions import exposing
from onnxpfp.comparison.drift import Drift, DriftSums
from onnxpfp.comparison.metrics import divergence, looks_like_classes
from onnxpfp.comparison.outcomes import OutcomeRows, Outcomes
from onnxpfp.comparison.picks import Picks
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.progress import Count
from onnxpfp.runtime.providers import CPU, ProviderRequest
from onnxpfp.runtime.session import Session, open_session
from onnxpfp.runtime.workers import ALONE, Workers, cores, side_by_side, workers

__all__ = ["Comparison", "Evaluator"]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """How far a model is from the original, over all samples and at each.

    Attributes:
        drift: Over all samples.
        outcomes: At each.
    """

    drift: Drift
    outcomes: Outcomes


@dataclass(slots=True, eq=False)
class Evaluator:
    """Compares models with the original. The original runs once where its outputs fit the workspace, else every time.

    Attributes:
        original: The original.
        samples: What the models are run on.
        held_out: Whether nothing that chooses has seen these samples.
        batch_size: Samples in one run.
        requests: Where to run.
        threads: Of all that runs at once; None takes all cores.
        workspace: Bytes that the outputs of the original may take.
        picks: Which outputs have rows that are picked, and what is measured for them.
        inner: Tensors that both models show beside their outputs, for `pairs`.
    """

    original: ModelProto
    samples: Samples
    held_out: bool
    batch_size: int
    requests: Sequence[ProviderRequest]
    threads: int | None
    workspace: int
    picks: Picks = field(default_factory=Picks)
    inner: tuple[str, ...] = ()
    _kept: list[Arrays] | None = field(default=None, init=False)
    _running: Session | None = field(default=None, init=False)
    _providers: tuple[str, ...] = field(default=(), init=False)

    def compare(self, model: ModelProto, progress: Count | None = None) -> Comparison:
        """Measure how far the outputs of a model are.

        Args:
            model: The model.
            progress: Told how many samples are done, of how many.
        """
        sums, outcomes, done = DriftSums(picks=self.picks), OutcomeRows(self.picks), 0
        for feed, count, wanted, given in self.pairs(model):
            rows = self.samples.rows(feed)
            sums.add(rows, wanted, given)
            outcomes.add(count, rows, wanted, given)
            done += count
            if progress:
                progress(done, len(self.samples))
        return Comparison(sums.drift(done, held_out=self.held_out), outcomes.outcomes())

    def drift(self, model: ModelProto, progress: Count | None = None) -> Drift:
        """Measure how far the outputs of a model are, over all samples; as `compare`."""
        return self.compare(model, progress).drift

    def loss(self, model: ModelProto) -> float:
        """Return the divergence of a model's outputs, 0 for the original (`onnxpfp.comparison.metrics`)."""
        pairs = [(wanted, given) for _, _, wanted, given in self.pairs(model)]
        return divergence([wanted for wanted, _ in pairs], [given for _, given in pairs], rows=self.picks.rows)

    @property
    def losses(self) -> dict[str, str]:
        """The loss of each output; whole numbers count only where there are no floats."""
        shown = self.shown()
        classes = {name for name, value in shown.items() if looks_like_classes(value)} - self.picks.rows
        return {
            name: "KL divergence" if name in classes else "relative squared error"
            for name, value in shown.items()
            if value.dtype.kind == "f"
        } or {name: "share of the numbers that changed" for name, value in shown.items() if value.dtype.kind in "iub"}

    def shown(self) -> Arrays:
        """Return what is compared of the original, of the first batch."""
        return self.picks.compared(next(iter(self._wanted())))

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers on which onnxruntime really ran the original."""
        if not self._providers:
            next(iter(self._wanted()))
        return self._providers

    def pairs(self, model: ModelProto) -> Iterator[tuple[Feed, int, Arrays, Arrays]]:
        """Yield every feed, its number of samples, the outputs of the original and those of the model.

        Some batches run side by side.
        """
        with workers(self._at_once) as helpers:
            session: list[Session] = []

            def started() -> Iterator[tuple[Feed, int, Arrays, Arrays]]:
                runs = self.samples.runs(self.batch_size)
                for (feed, count), shown in zip(runs, self._wanted(helpers), strict=True):
                    picked = self.picks.given(shown)
                    if not session:
                        made = partial(self._picking, model, picked)
                        session.append(open_session(made, self.requests, threads=self._each, shared=True))
                    yield feed, count, shown, {**feed, **picked}

            def run(one: tuple[Feed, int, Arrays, Arrays]) -> tuple[Feed, int, Arrays, Arrays]:
                feed, count, shown, fed = one
                given = self.picks.compared(session[0].run(fed))
                return feed, count, {name: shown[name] for name in given}, given

            yield from helpers.in_order(run, started(), helpers.count)

    @property
    def _at_once(self) -> int:
        """How many batches run side by side: one where another provider than the CPU runs them."""
        if any(request.name != CPU for request in self.requests):
            return 1
        batches = -(-len(self.samples) // (self.samples.fixed_batch or self.batch_size))
        return side_by_side(self.threads, batches)

    @property
    def _each(self) -> int | None:
        """Threads inside one op: what is left where several batches run."""
        return self.threads if self._at_once == 1 else (self.threads or cores()) // self._at_once

    def open_original(self) -> Session:
        """Open the original, with all that it shows; while `pairs` runs it, it is open."""
        if self._running is not None:
            return self._running
        return open_session(self._showing, self.requests, threads=self._each, shared=True)

    def _showing(self) -> ModelProto:
        return with_fixed_draws(self._showing_inner(self.picks.showing(self.original)))

    def _picking(self, model: ModelProto, picked: Arrays) -> ModelProto:
        return with_fixed_draws(self._showing_inner(self.picks.picking(model, picked)))

    def _showing_inner(self, model: ModelProto) -> ModelProto:
        return exposing(model, self.inner) if self.inner else model

    def _wanted(self, helpers: Workers = ALONE) -> Iterator[Arrays]:
        """Yield the outputs of the original, batch by batch, and keep them if they are few enough.

        Args:
            helpers: Threads that run batches side by side.
        """
        if self._kept is not None:
            yield from self._kept
            return
        session = self._running = self.open_original()
        self._providers = session.providers
        kept: list[Arrays] = []
        size = 0
        try:
            for outputs in helpers.in_order(session.run, self.samples.batches(self.batch_size), helpers.count):
                size += sum(array.nbytes for array in outputs.values())
                if size <= self.workspace:
                    kept.append({name: owned(array) for name, array in outputs.items()})
                else:
                    kept.clear()
                yield outputs
        finally:
            self._running = None
        if size <= self.workspace:
            self._kept = kept
