"""The errors that a user can meet: each has one line that says what is wrong, and a hint of what to do."""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar

__all__ = [
    "CalibrationError",
    "CertificationError",
    "InstallationError",
    "LatencyTableError",
    "ModelError",
    "OnnxPfpError",
    "OptionError",
    "OutputError",
    "PlanError",
    "ProviderError",
    "TargetUnreachableError",
    "TimeLimitError",
    "VerificationError",
    "legible",
    "one_line",
]

_LONGEST_REASON = 400
LONGEST_WORD = 500
"""Characters; names and paths that people write are shorter."""
LONGEST_MESSAGE = 4000
"""Characters, of which a part may be names out of a file."""
_LONG = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class OnnxPfpError(Exception):
    """Base of all errors that onnxpfp raises on purpose.

    Attributes:
        exit_code: What the command line returns.
        hint: What to do about it, or an empty string.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(_shortened(legible(message)))
        self.hint = _shortened(legible(hint))


class OptionError(OnnxPfpError):
    """An option has a value that cannot be meant."""

    exit_code = 2


class ModelError(OnnxPfpError):
    """The input is not a model that can be read, checked or run."""


class CalibrationError(OnnxPfpError):
    """The calibration data do not fit the model."""


class CertificationError(CalibrationError):
    """The samples that only measure the result do not fit the model, or have been calibrated with; it names them."""


class ProviderError(OnnxPfpError):
    """A requested execution provider cannot run here."""


class InstallationError(OnnxPfpError):
    """Something that is installed does not work."""


class PlanError(OnnxPfpError):
    """A plan file cannot be read or does not belong to this network."""


class LatencyTableError(OnnxPfpError):
    """A latency table cannot be read or does not belong to this network."""


class OutputError(OnnxPfpError):
    """The result cannot be written where it was asked for."""


class TargetUnreachableError(OnnxPfpError):
    """Nothing can be pruned, or not as much as was asked for."""

    exit_code = 3


class TimeLimitError(OnnxPfpError):
    """It takes longer than it may."""

    exit_code = 124
    """That of timeout(1)."""


class VerificationError(OnnxPfpError):
    """The pruned model is not what it must be; nothing was written."""

    exit_code = 4


def one_line(error: BaseException) -> str:
    """Return a library's message on one short line, without the prefix that onnxruntime gives."""
    text = re.sub(r"^\[ONNXRuntimeError\]\s*:\s*\d+\s*:\s*\w+\s*:\s*", "", str(error).strip())
    # Some reasons begin with the place in the C++ source and the signature of the function.
    text = re.sub(r"^/\S+:\d+ .*?\)(?: const)? ", "", " ".join(text.split()))
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def legible(text: str) -> str:
    """Return a text that can be shown: what steers a terminal or turns its lines around is `?`, long words are cut.

    Names come from files, and who made those may want to write on the reader's screen.
    """
    if not text.isprintable():
        text = "".join(c if c in "\n\t" or not _steers(c) else "?" for c in text)
    return _LONG.sub(lambda word: f"{word[0][: LONGEST_WORD // 2]}...{word[0][-LONGEST_WORD // 4 :]}", text)


def _steers(character: str) -> bool:
    """Tell whether a character is a control or formatting one, or half of a pair."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs"}


def _shortened(message: str) -> str:
    return message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}..."
