"""Checks of the values of options: each refuses what cannot be meant, in one line that names the flag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxpfp.errors import OptionError

__all__ = [
    "STRUCTURES",
    "check_at_least_one",
    "check_confidence",
    "check_cosine",
    "check_criterion",
    "check_dropped_share",
    "check_kept_energy",
    "check_largest_error",
    "check_least_share",
    "check_libraries",
    "check_milliseconds",
    "check_multiple",
    "check_probability",
    "check_promised_error",
    "check_promised_share",
    "check_ranges",
    "check_seconds",
    "check_seed",
    "check_shard",
    "check_share",
    "check_size",
    "check_structure",
    "check_threshold",
    "check_tolerance",
    "check_workspace",
]

STRUCTURES = ("channels", "rank", "blocks")
"""What pruning may take out of a network, or make smaller."""
LEAST_WORKSPACE = 1_000_000
"""Bytes; who gives less has another unit in mind."""
_DIGITS = 9
"""Of a number of shards: more batches than that are never run."""
EVEN = 0.5
"""Confidence below which a promise is more likely false than true, so that its probability of failing was meant."""
LONGEST_TIMEOUT = 10_000_000
"""Seconds; what waits for longer (116 days) overflows."""


def check_largest_error(flag: str, value: float) -> None:
    """Refuse what is no size of an error."""
    if not value > 0:
        raise OptionError(f"{flag} {value:g} must be above 0", hint=f"{flag} 0.05 allows 5 %")


def check_least_share(flag: str, value: float) -> None:
    """Refuse what is no share of samples."""
    if not 0 < value <= 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1]", hint=f"{flag} 0.99 means 99 %")


def check_criterion(flag: str, value: object) -> None:
    """Refuse what is neither a name nor a criterion."""
    if not isinstance(value, str) and not all(hasattr(value, name) for name in ("name", "needs", "score")):
        raise OptionError(f"{flag} takes a name or a Criterion, not a {type(value).__name__}")


def check_at_least_one(flag: str, value: int) -> None:
    """Refuse numbers below 1."""
    if value < 1:
        raise OptionError(f"{flag} {value} must be at least 1")


def check_structure(flag: str, value: str) -> None:
    """Refuse what is no list of what may go, in which channels always are."""
    if value == "auto":
        return
    parts = value.split(",")
    known = ", ".join(STRUCTURES)
    for part in parts:
        if part not in STRUCTURES:
            raise OptionError(f"{flag} '{part}' is none of {known}", hint=f"{flag} {','.join(STRUCTURES)}")
    if len(set(parts)) < len(parts):
        raise OptionError(f"{flag} {value} names something twice")
    if "channels" not in parts:
        alone = "; onnxpfp factorize lowers ranks alone" if "rank" in parts else ""
        raise OptionError(f"{flag} {value} lacks channels, which always may go", hint=f"{flag} channels,{value}{alone}")


def check_multiple(flag: str, value: int | str) -> None:
    """Refuse what is neither a number from 1 on nor auto."""
    if isinstance(value, str):
        if value != "auto":
            raise OptionError(f"{flag} '{value}' is neither a whole number nor auto")
        return
    check_at_least_one(flag, value)


def check_shard(flag: str, value: str) -> None:
    """Refuse what is no shard: two whole numbers, the first from 1 to the second."""
    number, slash, of = value.partition("/")
    sound = bool(slash) and number.isdecimal() and of.isdecimal() and len(number) <= len(of) <= _DIGITS
    if not sound or not 1 <= int(number) <= int(of):
        raise OptionError(f"{flag} {value}: a shard is I/N, such as 1/4, with I from 1 to N")


def check_share(flag: str, value: float) -> None:
    """Refuse what is no share that something may keep."""
    if not 0 < value <= 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1]", hint=f"{flag} 0.7 keeps 70 %")


def check_dropped_share(flag: str, value: float) -> None:
    """Refuse what is no share of a group that may go."""
    if not 0 <= value < 1:
        raise OptionError(f"{flag} {value:g} is outside [0, 1)", hint=f"{flag} 0.25 lets 25 % of every group go")


def check_threshold(flag: str, value: float) -> None:
    """Refuse what is no multiple of a mean."""
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{flag} {value:g} must be above 0", hint=f"{flag} 0.5 is half of the mean of a group")


def check_cosine(flag: str, value: float) -> None:
    """Refuse what is no cosine of maps that are alike."""
    if not 0 < value <= 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1]", hint=f"{flag} 0.95 is usual")


def check_kept_energy(flag: str, value: float) -> None:
    """Refuse what is no share of an energy."""
    if not 0 < value <= 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1]", hint=f"{flag} 0.95 keeps 95 %")


def check_size(flag: str, value: float) -> None:
    """Refuse what is neither a share that a file may keep nor whole bytes."""
    if not (0 < value <= 1 or (math.isfinite(value) and value > 1 and value == int(value))):
        raise OptionError(
            f"{flag} {value:g} is neither a share in (0, 1] nor whole bytes", hint=f"{flag} 0.5 keeps half of the file"
        )


def check_ranges(flag: str, value: Mapping[str, tuple[float, float]]) -> None:
    """Refuse ranges that are empty or unlimited."""
    for name, (low, high) in value.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise OptionError(
                f"{flag} {name}:{low:g},{high:g} is no range of finite numbers", hint=f"{flag} {name}:0,1, for instance"
            )


def check_promised_share(flag: str, value: float) -> None:
    """Refuse shares of inputs that cannot be promised."""
    if value == 1:
        raise OptionError(f"{flag} 1 cannot be promised by any number of samples", hint=f"{flag} 0.99 means 99 %")
    if not 0 < value < 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1)", hint=f"{flag} 0.99 means 99 %")


def check_promised_error(flag: str, value: float) -> None:
    """Refuse mean errors that need no promise, or cannot be promised."""
    if not 0 < value < 1:
        raise OptionError(
            f"{flag} {value:g} is outside (0, 1): an error counts as 1 where it is more",
            hint=f"{flag} 0.05 allows 5 %",
        )


def check_tolerance(flag: str, value: float) -> None:
    """Refuse what is no size."""
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{flag} {value:g} must be above 0", hint=f"{flag} 0.05 is the default")


def check_probability(flag: str, value: float) -> None:
    """Refuse what is no probability between 0 and 1."""
    if not 0 < value < 1:
        raise OptionError(f"{flag} {value:g} is no probability between 0 and 1")


def check_confidence(flag: str, value: float) -> None:
    """Refuse what is no confidence."""
    if not 0 < value < 1:
        raise OptionError(f"{flag} {value:g} is outside (0, 1)", hint=f"{flag} 0.95 means 95 %")
    if value < EVEN:
        raise OptionError(
            f"{flag} {value:g} is less than even: it is a confidence, not an error probability",
            hint=f"{flag} {1 - value:g} lets a promise fail with a probability of {value:g}",
        )


def check_libraries(flag: str, value: Sequence[str]) -> None:
    """Refuse libraries that are not there."""
    for library in value:
        if not Path(library).is_file():
            raise OptionError(f"{flag} {library}: there is no such file", hint="give the path of a shared library")


def check_workspace(flag: str, value: int) -> None:
    """Refuse less memory than anything takes."""
    if value < LEAST_WORKSPACE:
        raise OptionError(f"{flag} {value} bytes is less than 1MB", hint="512MB is the default")


def check_seconds(flag: str, value: float) -> None:
    """Refuse what is no time to wait."""
    if not 0 < value <= LONGEST_TIMEOUT:
        raise OptionError(f"{flag} {value:g} is no number of seconds", hint=f"{flag} 600 is ten minutes")


def check_milliseconds(flag: str, value: float) -> None:
    """Refuse what is no latency."""
    if not 0 < value < math.inf:
        raise OptionError(f"{flag} {value:g} is no number of milliseconds", hint=f"{flag} 12.5")


def check_seed(flag: str, value: int) -> None:
    """Refuse what is no seed."""
    if not math.isfinite(value) or value < 0:
        raise OptionError(f"{flag} {value} must not be negative")
