"""The profile of onnxruntime: what every kernel of a model takes, after all fusions, and on what shapes it works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.scratch import temporary_folder
from onnxpfp.runtime.session import Session, SessionSource, open_session

__all__ = ["KernelTime", "open_profiled", "profile_kernels"]

RUNS = 5
"""Runs that count; the first of all does not."""
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A node of the graph that onnxruntime really runs.

    Attributes:
        name: Its name: that of a node of the model, or made up by the fusion that it comes from.
        op: Its op type, such as FusedConv.
        provider: Where it ran.
        shapes: Shapes of its inputs that are tensors, in their order; weights may be padded or laid out anew.
        ms: Least time of the runs, in milliseconds, for what disturbs a run only adds; a kernel that runs several times
            in one counts as often.
    """

    name: str
    op: str
    provider: str
    shapes: tuple[tuple[int, ...], ...]
    ms: float


def profile_kernels(
    models: Sequence[SessionSource],
    feed: Mapping[str, NDArray[Any]],
    requests: Sequence[ProviderRequest],
    threads: int | None,
    runs: int = RUNS,
) -> list[tuple[KernelTime, ...]]:
    """Run models in turns a few times and return what the kernels of each took, in the order in which they ran first.

    Args:
        models: The models.
        feed: Inputs of one run.
        requests: Where to run.
        threads: Of onnxruntime.
        runs: How many runs of each count.

    Raises:
        ModelError: One does not run.
    """
    with ExitStack() as stack:
        sessions = [stack.enter_context(_profiling(model, requests, threads)) for model in models]
        for _ in range(runs + 1):
            for session in sessions:
                session.run(feed)
        return [_end(session) for session in sessions]


def open_profiled(
    model: SessionSource,
    feed: Mapping[str, NDArray[Any]],
    requests: Sequence[ProviderRequest],
    threads: int | None,
    runs: int,
) -> tuple[Session, tuple[KernelTime, ...]]:
    """Open a model and run it a few times with the profile; runs that follow take as long as without it.

    Args:
        model: The model.
        feed: As for `profile_kernels`.
        requests: Likewise.
        threads: Likewise.
        runs: Likewise.

    Returns:
        The model, ready for runs without the profile, and what its kernels took.

    Raises:
        ModelError: It does not run.
    """
    with _profiling(model, requests, threads) as session:
        for _ in range(runs + 1):
            session.run(feed)
        return session, _end(session)


@contextmanager
def _profiling(model: SessionSource, requests: Sequence[ProviderRequest], threads: int | None) -> Generator[Session]:
    """Open a model with the profile, whose file is gone behind."""
    folder = temporary_folder()
    try:
        yield open_session(model, requests, threads=threads, resting=True, profile=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(session: Session) -> tuple[KernelTime, ...]:
    """End the profile and read it."""
    return _kernels(json.loads(session.end_profile().read_bytes()))


def _kernels(events: Sequence[Mapping[str, Any]]) -> tuple[KernelTime, ...]:
    """Add up every run by kernel, but for the first run."""
    # An event stands behind those of what it contains.
    run, totals, first = 0, dict[str, dict[int, float]](), dict[str, Mapping[str, Any]]()
    for event in events:
        if event.get("cat") == "Session" and event["name"] == "model_run":
            run += 1
        elif event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            name = event["name"].removesuffix(_SUFFIX)
            first.setdefault(name, event["args"])
            by_run = totals.setdefault(name, {})
            by_run[run] = by_run.get(run, 0.0) + event["dur"] / 1000
    return tuple(
        KernelTime(
            name,
            args["op_name"],
            args.get("provider", ""),
            tuple(tuple(map(int, next(iter(shape.values())))) for shape in args.get("input_type_shape", ()) if shape),
            min((ms for number, ms in totals[name].items() if number), default=0.0),
        )
        for name, args in first.items()
    )
