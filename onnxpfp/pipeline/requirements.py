"""What a run cannot do without: data, and enough of them to hold some out.

Each is made sure of as soon as it can be told: before anything is read, or when the data are there. Whether
channels may go is known after the analysis (`pipeline/nothing_to_prune.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxpfp.counted import counted
from onnxpfp.data.sources import SampleSource
from onnxpfp.data.splits import CalibrationData, Split, least_to_split
from onnxpfp.errors import CalibrationError, OptionError
from onnxpfp.options import Options
from onnxpfp.pipeline.criteria import criterion_of

__all__ = [
    "PRUNABILITY_HOLDS_OUT",
    "holding_out",
    "require_data",
    "require_data_for_prunability",
    "require_own_certification",
    "require_split",
]

PRUNABILITY_HOLDS_OUT = "prunability is measured on samples that are held out"
_GIVE_DATA = "give --calib-data FILE.npz"
_LSTSQ = "--compensate lstsq"


def require_data(calibration: SampleSource | None, options: Options, *, replaying: bool, scored: bool = False) -> None:
    """Make sure that there are data if a pruning needs some.

    Args:
        calibration: The data as they were given.
        options: How to prune.
        replaying: Whether a plan says what stays, so that nothing is scored and no quality is aimed at.
        scored: Whether the scores come from a file.

    Raises:
        OptionError: There are none for the target or the score.
        CalibrationError: There are none for anything else.
    """
    if calibration is not None:
        return
    criterion = criterion_of(options.score)
    if not replaying and (options.limit_flag or (criterion.needs_data and not scored)):
        measuring = options.limit_flag or f"--score {criterion.name}"
        raise OptionError(f"{measuring} measures the data, and none are given", hint=_GIVE_DATA)
    deciding = _deciding(options, replaying=replaying)
    # Layers can be fitted one by one by what a file of scores has.
    if flag := next((flag for flag in deciding if not (scored and flag == _LSTSQ)), ""):
        raise CalibrationError(f"{flag} measures the data, and none are given", hint=_GIVE_DATA)


def require_own_certification(calibration: SampleSource | None, certification: SampleSource | None) -> None:
    """Make sure that samples that only measure the result are the user's, and have a result to measure.

    Raises:
        OptionError: They are noise, or the others are, or there are no others.
    """
    if certification is None:
        return
    if isinstance(certification, str) and certification == "random":
        raise OptionError("--certify-data random is noise, which certifies nothing", hint="give samples of your own")
    if calibration is None:
        raise OptionError("--certify-data goes with --calib-data, and none are given", hint=_GIVE_DATA)
    if isinstance(calibration, str) and calibration == "random":
        raise OptionError("--certify-data goes with data of yours, and --calib-data random is noise", hint=_GIVE_DATA)


def require_data_for_prunability(calibration: SampleSource | None) -> None:
    """Make sure that there are data to measure prunability on.

    Raises:
        OptionError: There are none.
    """
    if calibration is None:
        raise OptionError("prunability is how far the output drifts on data, and none are given", hint=_GIVE_DATA)


def holding_out(options: Options, *, replaying: bool) -> list[str]:
    """List what of a pruning holds samples out, for `require_split`."""
    return [f"{flag} holds samples out to decide on" for flag in _deciding(options, replaying=replaying)]


def _deciding(options: Options, *, replaying: bool) -> Iterator[str]:
    """Yield the flags that ask for a decision on samples that are held out."""
    if options.limit_flag and not replaying:
        yield options.limit_flag
    if options.compensate == "lstsq":
        yield _LSTSQ
    if options.effort == "high":
        yield f"--effort {options.effort}"
    if not replaying:
        criterion = criterion_of(options.score)
        if "gram" in criterion.needs:
            yield f"--score {criterion.name}"
        if options.allocate == "measured":
            yield "--allocate measured"
        if options.ranked or options.drops_blocks:
            yield f"--structure {options.structure}"


def require_split(data: CalibrationData, holding_out: str) -> Split:
    """Return the samples by what they are for.

    Args:
        data: The samples.
        holding_out: What holds some out.

    Raises:
        CalibrationError: There are too few for that.
    """
    if data.split is None:
        raise CalibrationError(
            f"{holding_out}, which takes {counted(least_to_split(data.samples), 'sample')}, and "
            f"{counted(len(data.samples), 'is', 'are')} given",
            hint="give more unlabelled samples",
        )
    return data.split
