"""Calibration: sources of samples, sessions, and the probes that measure each reader."""

from onnxpfp.calibrate.data import Source, load_samples, random_samples
from onnxpfp.calibrate.inputs import InputSpec, input_specs
from onnxpfp.calibrate.plan import Guard, Kernel
from onnxpfp.calibrate.reader import Reader, Window, reader_outputs
from onnxpfp.calibrate.run import calibrate
from onnxpfp.calibrate.samples import Samples
from onnxpfp.calibrate.statistics import ReaderStatistics, Statistics
from onnxpfp.runtime.providers import ProviderRequest, resolve_providers
from onnxpfp.runtime.session import Session, open_session

__all__ = [
    "Guard",
    "InputSpec",
    "Kernel",
    "ProviderRequest",
    "Reader",
    "ReaderStatistics",
    "Samples",
    "Session",
    "Source",
    "Statistics",
    "Window",
    "calibrate",
    "input_specs",
    "load_samples",
    "open_session",
    "random_samples",
    "reader_outputs",
    "resolve_providers",
]
