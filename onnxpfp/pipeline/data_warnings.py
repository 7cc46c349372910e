"""What looks wrong with the user's data: they are not like those of training, or few."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import takewhile

from onnxpfp.counted import counted
from onnxpfp.data.samples import Feed, Samples
from onnxpfp.data.splits import CalibrationData
from onnxpfp.data.stored_statistics import FAR, LEAST_TO_TELL, MOST_TO_TELL, StoredStatistics
from onnxpfp.errors import ModelError
from onnxpfp.options import Options

__all__ = ["few_samples", "unlike_training"]

_LOG = logging.getLogger(__name__)


def unlike_training(statistics: StoredStatistics | None, data: CalibrationData) -> str:
    """Say that samples are far from the statistics of the file, and write it to the log; nothing where they are not.

    Args:
        statistics: What the file stores.
        data: The samples; those that are held out are not looked at.
    """
    samples = data.samples
    if statistics is None or len(samples) < LEAST_TO_TELL:
        return ""
    try:
        distance, name = statistics.distance(_some(data))
    except ModelError:
        # Whatever runs the whole network says what is wrong.
        return ""
    if distance <= FAR:
        return ""
    text = (
        f"the data look unlike those of training, as if they were scaled otherwise: what '{name}' reads is "
        f"{distance:.2g} nats from the means and variances that the file stores ({FAR:g} is far); check the range, the "
        "mean and the deviation of the inputs (--preprocess of images)"
    )
    _LOG.warning("%s", text)
    return text


def _some(data: CalibrationData) -> Iterator[Feed]:
    """Yield the feeds of enough samples."""
    done = 0

    def wanted(run: tuple[Feed, int]) -> bool:
        nonlocal done
        done += run[1]
        return done - run[1] < MOST_TO_TELL

    return (feed for feed, _ in takewhile(wanted, data.samples.runs(data.batch_size)))


def few_samples(samples: Samples, options: Options, *, undivided: bool) -> str:
    """Say that there are fewer samples than are asked for, or too few to be divided; nothing where there are enough.

    Args:
        samples: They, as they are used.
        options: How many are asked for.
        undivided: Whether they decide and could not be divided.
    """
    count, together = len(samples), samples.fixed_batch or 1
    if options.samples is not None and count < options.samples and together > 1:
        # The last run must be whole, so whether more are given is not known here.
        used = f"{count:,} samples are used, in runs of the {together} that the model takes at once"
        few = ", so few that the same ones decide and measure the result" if undivided else ""
        return f"{used}{few}; --calib-samples asks for {options.samples:,}"
    if options.samples is not None and count < options.samples:
        return f"{counted(count, 'sample was', 'samples were')} given, and --calib-samples asks for {options.samples:,}"
    if undivided:
        few = f"{counted(count, 'sample is', 'samples are')} so few that the same ones decide and measure the result"
        return f"{few}; a few hundred do better"
    return ""
