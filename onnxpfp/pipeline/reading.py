"""Read the data of a run: the samples that decide, and those that measure the result."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

from onnxpfp.calibrate.batch_size import BATCH
from onnxpfp.data.carry import Carry, carry_of
from onnxpfp.data.images import ImageReader
from onnxpfp.data.inputs import InputSpec, input_specs, size_ref
from onnxpfp.data.overlap import require_apart
from onnxpfp.data.samples import Samples
from onnxpfp.data.sources import DataForm, SampleSource, load_samples
from onnxpfp.data.splits import CalibrationData, Given, Split, held_out_count, split_samples
from onnxpfp.data.stored_statistics import StoredStatistics
from onnxpfp.errors import CalibrationError, CertificationError, ModelError, OptionError
from onnxpfp.model.draws import with_fixed_draws
from onnxpfp.model.input_shapes import default_input_shapes, shape_hint
from onnxpfp.model.load import LoadedModel
from onnxpfp.options import Options
from onnxpfp.pipeline.batching import Batching, choose_batching, with_scores
from onnxpfp.pipeline.data_warnings import few_samples, unlike_training
from onnxpfp.pipeline.runnable_shapes import runnable_shapes
from onnxpfp.runtime.heap import trim_heap
from onnxpfp.runtime.session import Session, open_session

__all__ = ["CHECKS", "read_data"]

RANDOM_SAMPLES = 64
CHECKS = 4
"""Sets of inputs on which the oracle runs where there are no data."""


def read_data(
    source: LoadedModel,
    session: Session,
    calibration: SampleSource | None,
    options: Options,
    certification: SampleSource | None = None,
    *,
    decides: bool = True,
    made_up_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> CalibrationData:
    """Read the data, hold some out, and find a batch size that the model accepts.

    Held-out samples have no say in that either: a batch size changes the last bits of whatever is measured.

    Args:
        source: The model.
        session: What runs it.
        calibration: Samples, or None.
        options: How to prune.
        certification: Samples that are held out in the place of some of the others.
        decides: Whether anything is to be decided by them: if not, none are held out.
        made_up_shapes: Input shapes at which samples are made up, where they are known.

    Raises:
        CalibrationError: The data do not fit the model.
        CertificationError: Those that are given apart do not, or are among the others.
        ModelError: It does not run on them.
    """
    given: Given = "none" if calibration is None else "file"
    if isinstance(calibration, str) and calibration == "random":
        given = "random"
    reader = _Reader(source, session, input_specs(source.model, options.input_shapes), options, made_up_shapes)
    samples = reader.calibration(calibration, made_up=given != "file")
    if given == "none" or not decides:
        batching = reader.batching(samples, made_up=given != "file")
        data = CalibrationData(batching.samples, given, batching.size, None, single=batching.single)
        return reader.warned(data, samples, undivided=False)
    count = 0
    if certification is None:
        count = held_out_count(len(samples), certifying=bool(options.limit_flag))
    deciding, split, held_out = split_samples(samples, options.seed, count)
    batching = reader.batching(deciding, made_up=given == "random")
    if batching.single and split is not None:
        deciding = batching.samples
        split = Split(split.fit.one_by_one(), split.tuning.one_by_one())
        held_out = None if held_out is None else held_out.one_by_one()
    elif batching.single:
        # Feeds of several samples, which are more where they run one by one.
        deciding, split, held_out = split_samples(batching.samples, options.seed, count)
    notes: tuple[str, ...] = ()
    if certification is not None:
        held_out, notes = reader.certification(certification, samples)
    data = CalibrationData(deciding, given, batching.size, split, held_out, notes, batching.single)
    return reader.warned(data, samples, undivided=split is None)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads samples for one model.

    Attributes:
        source: The model.
        session: What runs it.
        specs: Its inputs.
        options: How to prune.
        made_up_shapes: As in `read_data`.
    """

    source: LoadedModel
    session: Session
    specs: tuple[InputSpec, ...]
    options: Options
    made_up_shapes: Mapping[str, tuple[int, ...]] | None

    @cached_property
    def statistics(self) -> StoredStatistics | None:
        """What the file remembers of its training data."""
        return StoredStatistics.of(self.source.model)

    @cached_property
    def form(self) -> DataForm:
        """How data are read, calibration and certification samples alike.

        Raises:
            OptionError: States are carried from or to what there is not.
        """
        options = self.options
        images = ImageReader(options, options.input_shapes, lambda: self.statistics)
        outputs = [output.name for output in self.source.model.graph.output]
        carry = Carry(carry_of(options.carry, self.specs, outputs), self.session.run, options.input_shapes)
        return DataForm(images, carry, options.samples)

    def warned(self, data: CalibrationData, samples: Samples, *, undivided: bool) -> CalibrationData:
        """Add what looks wrong with the user's data, and what is known of sequences.

        Args:
            data: The data.
            samples: All that were read to decide.
            undivided: Whether they decide and could not be divided.

        Raises:
            OptionError: It is said how images are read, which states samples have or how many are used, and there are
                none.
        """
        carry, asked = self.form.carry, self.options.image_flags
        if asked and not self.form.images.lines:
            raise OptionError(
                f"{' and '.join(asked)}: that is of images, and there are none among the data",
                hint="give a folder of images, or leave it out and scale the data before",
            )
        if data.given == "none":
            if carry.outputs:
                raise OptionError(
                    "--carry says which states samples have, and no data are given",
                    hint="give --calib-data, or leave it out",
                )
            if self.options.samples is not None:
                raise OptionError(
                    "--calib-samples says how many samples are used, and no data are given",
                    hint="give --calib-data, or leave it out",
                )
            return data
        warnings = [*self.form.images.lines, *carry.notes(len(samples))]
        if data.given == "file":
            few = few_samples(samples, self.options, undivided=undivided)
            warnings += filter(None, [few, unlike_training(self.statistics, data)])
        unread = self.form.images.unread
        return replace(data, independent=not carry.outputs, warnings=tuple(warnings), unread=unread)

    def calibration(self, source: SampleSource | None, *, made_up: bool) -> Samples:
        """Read the samples that decide, or make some up: as many as are asked for."""
        options = self.options
        if made_up:
            shapes = self.made_up_shapes or runnable_shapes(self.source.model, self.session, options.input_shapes)
        else:
            shapes = default_input_shapes(self.source.model, options.input_shapes)
        samples = load_samples(
            "random" if source is None else source,
            self.specs,
            count=max(CHECKS, options.latency_batch) if source is None else options.samples or RANDOM_SAMPLES,
            input_shapes=shapes,
            exact=bool(options.input_shapes),
            rng=options.seed,
            axes=options.sample_axes,
            form=self.form,
        )
        if options.samples is not None and options.samples < len(samples):
            samples = samples.take(options.samples)
        return samples

    def certification(self, source: SampleSource, deciding: Samples) -> tuple[Samples, tuple[str, ...]]:
        """Read the samples that only measure the result, all of them.

        Args:
            source: Where they are.
            deciding: Samples that decide.

        Returns:
            They, and how they are read and run where that is not what one would think.

        Raises:
            CertificationError: They do not fit the model, or are among those that decide.
        """
        with _naming(source):
            form = replace(self.form, most=None, every=True)
            samples = load_samples(source, self.specs, axes=self.options.sample_axes, form=form)
            # What is wrong with them is said before anything is measured, and of them.
            for _ in samples.runs(BATCH):
                pass
            require_apart(samples, deciding)
            batching = self.batching(samples, made_up=False)
        alone = (f"samples run one by one: {batching.single}",) if batching.single else ()
        notes = {*samples.notes, *alone} - set(deciding.notes)
        return batching.samples, tuple(f"--certify-data: {note}" for note in sorted(notes))

    def batching(self, samples: Samples, *, made_up: bool) -> Batching:
        """Find out how many samples run at once.

        Args:
            samples: The samples.
            made_up: Whether they are noise, whose shapes are no fault of the data.

        Raises:
            ModelError: The model does not run on them.
        """
        wanted = self.options.batch_size or BATCH
        try:
            batching = choose_batching(self.session, samples, wanted, partial(_open_scores, self.source, self.options))
        except ModelError as error:
            feed = next(samples.batches(1))
            shapes = {name: tuple(array.shape) for name, array in feed.items()}
            tried = ", ".join(f"{name} {size_ref(shape)}" for name, shape in shapes.items())
            hint = error.hint
            if made_up:
                hint = f"give shapes that it accepts, of this form: {shape_hint(self.source.model, shapes)}"
            elif self.form.images.lines:
                hint = "--resize sets the size of the images; many networks take multiples of 32 only"
            raise ModelError(f"{error} (tried {tried})", hint=hint) from error
        # What a batch took; the analysis runs single samples.
        trim_heap()
        return batching


def _open_scores(source: LoadedModel, options: Options) -> Session | None:
    """Open the model with what its outputs hide, or return None where they hide nothing."""
    shown = with_scores(with_fixed_draws(source.model))
    return None if shown is None else open_session(shown, threads=options.threads, shared=True)


@contextmanager
def _naming(source: SampleSource) -> Generator[None]:
    """Say of an error that it is in the samples that only measure the result, and name their file.

    Raises:
        CertificationError: As it came, with the name.
    """
    try:
        yield
    except (CalibrationError, ModelError) as error:
        path = str(source) if isinstance(source, str | os.PathLike) else ""
        name = f" {path}" if path not in str(error) else ""
        raise CertificationError(f"--certify-data{name}: {error}", hint=error.hint) from error
