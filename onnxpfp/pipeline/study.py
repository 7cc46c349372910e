"""What the refits work on: the linear ops, samples to fit, and samples that decide whether a fit is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxpfp.calibrate import ProviderRequest
from onnxpfp.calibrate.samples import Samples
from onnxpfp.config import Options
from onnxpfp.pipeline.clock import Count
from onnxpfp.pipeline.prepare import Data, Prepared
from onnxpfp.refit.outlook import Surroundings
from onnxpfp.refit.shelf import Shelf
from onnxpfp.refit.survey import Gram, GramWatcher, survey, watchers_of
from onnxpfp.refit.sweep import Setting
from onnxpfp.refit.tasks import Task, kept_weights, tasks_of
from onnxpfp.rewrite.weights import own_weights
from onnxpfp.score.reconstruction import Read, removal_costs

__all__ = ["Study", "gram_watchers", "grams_of", "reconstruction_scores", "study_of"]

POSITIONS = 64
"""Output positions that are drawn of every sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What the refits work on.

    Attributes:
        setting: The network, its linear ops and the samples.
        left: Consumers of channels that cannot be refitted, with the reason.
    """

    setting: Setting
    left: tuple[tuple[str, str], ...]


def study_of(
    prepared: Prepared,
    fit: Samples,
    tuning: Samples,
    data: Data,
    requests: Sequence[ProviderRequest],
    options: Options,
) -> Study:
    """Find the linear ops of a model and put everything together that refits need."""
    model, graph, constants = prepared.source.model, prepared.graph, prepared.constants
    surroundings = Surroundings.of(model, constants, prepared.shapes)
    tasks, left = tasks_of(surroundings, graph, own_weights(model, constants))
    setting = Setting(
        model=model,
        graph=graph,
        constants=constants,
        shapes=prepared.shapes,
        tasks=tasks,
        fit=fit,
        held=tuning,
        batch_size=data.batch_size,
        positions=POSITIONS,
        workspace=options.workspace,
        requests=requests,
        threads=options.threads,
        seed=options.seed,
        scratch=prepared.source.scratch,
    )
    return Study(setting, left)


def _reading(study: Study) -> list[Task]:
    """List the ops that read channels."""
    return [task for task in study.setting.tasks if task.reader.channels.any()]


def gram_watchers(study: Study) -> tuple[GramWatcher, ...]:
    """Start to collect the Gram matrices of all ops that read channels."""
    return watchers_of(study.setting, _reading(study), Shelf(study.setting.workspace // 2))


def grams_of(study: Study, tell: Count) -> dict[str, Gram]:
    """Collect them where the calibration did not, as nothing was chosen by them."""
    return survey(study.setting, _reading(study), Shelf(study.setting.workspace), tell)


def _reads(study: Study, task: Task, gram: Gram, place: NDArray[np.int64]) -> Iterator[Read]:
    """Describe how every convolution group of an op reads a group of channels."""
    weights = kept_weights(task, task.gain * task.reader.taps().astype(np.float64), study.setting.graph.keep_all())
    assert weights is not None
    per_in = len(task.reader.channels) // task.reader.group
    for number, block in enumerate(weights):
        own = task.reader.channels[number * per_in : (number + 1) * per_in]
        channel = np.repeat(place[own], task.reader.kernel_size)
        if (channel >= 0).any():
            yield Read(gram.covariance(number), block, channel)


def reconstruction_scores(study: Study, grams: Mapping[str, Gram], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Score every channel by what its removal adds to its consumers' errors, by channel id.

    A group without any consumer that can be refitted is ranked by energy.
    """
    graph = study.setting.graph
    tasks = {task.output: task for task in study.setting.tasks}
    values = np.zeros(graph.count + 1)
    place = np.full(graph.count + 1, -1)
    for group in graph.groups:
        place[group.channels] = np.arange(group.channels.size)
        names = [graph.consumers[position].output for position in group.consumers]
        reads = [read for name in names if name in grams for read in _reads(study, tasks[name], grams[name], place)]
        values[group.channels] = removal_costs(reads, group.channels.size) if reads else energy[group.channels]
        place[group.channels] = -1
    return values
