"""Everything that is known before the first decision: the model, its data, its channels."""

from __future__ import annotations

from dataclasses import dataclass

from onnxpfp.calibrate import (
    ProviderRequest,
    Samples,
    Session,
    input_specs,
    load_samples,
    open_session,
    resolve_providers,
)
from onnxpfp.calibrate import Source as DataSource
from onnxpfp.calibrate.inputs import spell
from onnxpfp.channels import ChannelGraph, Patterns, analyse
from onnxpfp.config import Options
from onnxpfp.errors import ModelError
from onnxpfp.model.constants import Constants
from onnxpfp.model.load import Source
from onnxpfp.model.shapes import Shapes, concrete_shapes, default_input_shapes

__all__ = ["Data", "Prepared", "open_model", "prepare", "read_data"]

BATCH = 16
RANDOM_SAMPLES = 64
CHECKS = 4
"""Sets of inputs on which the oracle runs where there are no data."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model that is understood.

    Attributes:
        source: The model as it was given.
        shapes: Shapes of its tensors for one sample.
        constants: Its constants.
        graph: Its channels.
    """

    source: Source
    shapes: Shapes
    constants: Constants
    graph: ChannelGraph


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What the model is run on.

    Attributes:
        samples: The samples; a little noise for the oracle where the user gives none.
        given: Whether they tell anything about the user's data: "file", "random" or "none".
        batch_size: Samples in one run that the model accepts.
    """

    samples: Samples
    given: str
    batch_size: int


def open_model(source: Source, options: Options) -> tuple[Session, tuple[ProviderRequest, ...]]:
    """Make sure that onnxruntime runs the model, and where.

    Raises:
        ModelError: It cannot load it.
        ProviderError: A provider that was asked for cannot run here.
    """
    requests = resolve_providers(options.providers)
    try:
        target = str(source.path) if source.external and source.path else source.model
        return open_session(target, requests, threads=options.threads), requests
    except ModelError as error:
        raise ModelError(f"{source.title}: {error}", hint=error.hint) from error


def read_data(source: Source, session: Session, calibration: DataSource | None, options: Options) -> Data:
    """Read the calibration data and find a batch size that the model accepts.

    Raises:
        CalibrationError: The data do not fit the model.
    """
    given = "none" if calibration is None else "file"
    if isinstance(calibration, str) and calibration == "random":
        given = "random"
    samples = load_samples(
        "random" if calibration is None else calibration,
        input_specs(source.model),
        count=CHECKS if calibration is None else options.samples or RANDOM_SAMPLES,
        input_shapes=default_input_shapes(source.model, options.input_shapes),
        exact=bool(options.input_shapes),
        rng=options.seed,
    )
    if options.samples is not None and options.samples < len(samples):
        samples = samples.take(options.samples)
    try:
        return Data(samples, given, _batch_size(session, samples, options.batch_size or BATCH))
    except ModelError as error:
        feed = next(samples.batches(1))
        shapes = ", ".join(f"{name} {spell(array.shape)}" for name, array in feed.items())
        hint = error.hint if given == "file" else "give shapes that it accepts: --input-shape NAME:1,3,48,160"
        raise ModelError(f"{error} (tried {shapes})", hint=hint) from error


def _batch_size(session: Session, samples: Samples, wanted: int) -> int:
    """Return the largest accepted of `wanted` and 1.

    Many exports promise a free batch axis and have a Reshape inside that fixes it.
    """
    if samples.fixed_batch is not None:
        return samples.fixed_batch
    wanted = min(wanted, len(samples))
    if wanted > 1:
        try:
            session.run(next(samples.batches(wanted)))
        except ModelError:
            wanted = 1
    session.run(next(samples.batches(wanted)))
    return wanted


def prepare(source: Source, data: Data, options: Options) -> Prepared:
    """Find the shapes, constants and channels of a model.

    Raises:
        ModelError: The model does not run at these shapes.
        OptionError: A pattern matches nothing.
    """
    feed = next(data.samples.batches(1))
    shapes = {name: tuple(array.shape) for name, array in feed.items()}
    concrete = concrete_shapes(source.model, shapes, feed)
    constants = Constants.of(source.model)
    patterns = Patterns(options.include, options.exclude)
    graph = analyse(source.model, concrete, constants, patterns)
    return Prepared(source, concrete, constants, graph)
