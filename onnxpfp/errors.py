"""The errors that a user can meet: each has one line that says what is wrong, and a hint of what to do."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CalibrationError",
    "ModelError",
    "OnnxPfpError",
    "OptionError",
    "OutputError",
    "PlanError",
    "ProviderError",
    "TargetUnreachableError",
    "VerificationError",
]


class OnnxPfpError(Exception):
    """Base of all errors that onnxpfp raises on purpose.

    Attributes:
        exit_code: What the command line returns.
        hint: What to do about it, or an empty string.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class OptionError(OnnxPfpError):
    """An option has a value that cannot be meant."""

    exit_code = 2


class ModelError(OnnxPfpError):
    """The input is not a model that can be read, checked or run."""


class CalibrationError(OnnxPfpError):
    """The calibration data do not fit the model."""


class ProviderError(OnnxPfpError):
    """A requested execution provider cannot run here."""


class PlanError(OnnxPfpError):
    """A plan file cannot be read or does not belong to this network."""


class OutputError(OnnxPfpError):
    """The result cannot be written where it was asked for."""


class TargetUnreachableError(OnnxPfpError):
    """Nothing can be pruned, or not as much as was asked for."""

    exit_code = 3


class VerificationError(OnnxPfpError):
    """The pruned model is not what it must be; nothing was written."""

    exit_code = 4
