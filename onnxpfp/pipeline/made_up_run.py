"""A model without data, run on made-up inputs: opened, given shapes and fed where that is asked for, and once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnxpfp.channels import Analysis
from onnxpfp.data.splits import CalibrationData
from onnxpfp.model.load import LoadedModel
from onnxpfp.options import Options
from onnxpfp.pipeline.analyze import analyze, open_model
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.reading import read_data
from onnxpfp.pipeline.runnable_shapes import runnable_shapes
from onnxpfp.progress import Clock
from onnxpfp.runtime.providers import ProviderRequest
from onnxpfp.runtime.session import Session

__all__ = ["MadeUpRun"]


@dataclass(frozen=True, eq=False)
class MadeUpRun:
    """What a model shows on made-up inputs.

    Attributes:
        source: The model.
        options: How it is read and run.
        clock: Adds up seconds, and says how far it is.
    """

    source: LoadedModel
    options: Options
    clock: Clock = field(default_factory=Clock)

    @cached_property
    def _opened(self) -> tuple[LoadedModel, Session, Sequence[ProviderRequest]]:
        with self.clock.phase("load"):
            return open_model(self.source, self.options)

    @property
    def runnable(self) -> LoadedModel:
        """The model, as far as onnxruntime has its ops.

        Raises:
            ModelError: It cannot load it.
        """
        return self._opened[0]

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The first made-up input shapes at which it runs, or the most natural ones where it runs at none.

        Raises:
            ModelError: onnxruntime cannot load it, or an input has no number of axes.
            OptionError: The given shapes do not fit it.
        """
        source, session, _ = self._opened
        with self.clock.phase("load"):
            return runnable_shapes(source.model, session, self.options.input_shapes)

    @cached_property
    def data(self) -> CalibrationData:
        """Made-up samples.

        Raises:
            CalibrationError: Nothing can be made up for one of its inputs.
            ModelError: It does not run on them.
        """
        source, session, _ = self._opened
        shapes = self.shapes
        with self.clock.phase("load"):
            return read_data(source, session, None, self.options, made_up_shapes=shapes)

    def context(self, analysis: Analysis) -> RunContext:
        """Return what the stages of a run share, without a target.

        Args:
            analysis: What is known of the model; it is analysed anew where that is of other shapes, or of more than
                onnxruntime runs.

        Raises:
            CalibrationError: As in `data`.
            ModelError: As in `data`.
        """
        source, session, requests = self._opened
        feed = next(self.data.samples.batches(1))
        fed = {name: tuple(array.shape) for name, array in feed.items()}
        if dict(analysis.shapes.inputs) != fed or (analysis.source.tail is None) != (source.tail is None):
            analysis = analyze(source, self.data, self.options, self.clock)
        return RunContext(analysis, self.data, requests, session.providers, self.options, None, 0, self.clock)
