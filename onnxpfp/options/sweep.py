"""Options of `sweep`: those of `prune`, with several values of one target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from onnxpfp.errors import OptionError
from onnxpfp.options import Options, PruningOptions
from onnxpfp.options.checks import (
    check_milliseconds,
    check_promised_error,
    check_promised_share,
    check_share,
    check_size,
)
from onnxpfp.options.declaration import Check, as_in, declare, declared

__all__ = ["DEFAULT_SHARES", "SweepOptions", "SweepTarget"]

DEFAULT_SHARES = (0.9, 0.7, 0.5)
"""Shares of the multiply-adds that stay where no targets are given."""
_TITLES = {"min_agreement": "agreement", "max_drift": "drift", "latency_ms": "ms"}
"""What a target is called in the names of files where its field is not keep_X."""


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """One of several targets.

    Attributes:
        name: The field of the option, such as keep_macs.
        flag: Its flag.
        value: What is asked for.
        options: Those of a pruning to it alone.
    """

    name: str
    flag: str
    value: float
    options: Options

    @property
    def text(self) -> str:
        """The value in digits, as short as it goes."""
        return f"{self.value:.15g}"

    @property
    def title(self) -> str:
        """What is asked for as names of files have it, such as macs-0.7."""
        return f"{_TITLES.get(self.name, self.name.removeprefix('keep_'))}-{self.text}"


def _each(check: Callable[[str, float], None]) -> Check:
    """Return a check of several values, made from that of one."""

    def check_all(flag: str, given: Any) -> None:
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise OptionError(f"{flag} takes a list of values", hint=f"{flag} 0.9,0.7,0.5 on the command line")
        values = cast("Sequence[float]", given)
        for value in values:
            check(flag, value)
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise OptionError(f"{flag} names {twice:g} twice")

    return check_all


def _several(help_text: str, metavar: str, check: Callable[[str, float], None], **more: Any) -> Any:
    """Declare a target that takes several values; one model comes of each."""
    return declare(None, help_text, "target", metavar=f"{metavar},...", check=_each(check), several=True, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions(PruningOptions):
    """Options of several prunings: those of one, and the targets."""

    keep_macs: Sequence[float] | None = _several(
        "Make a model for each of these shares of the multiply-adds, in (0, 1].",
        "F",
        check_share,
        default_text=",".join(f"{share:g}" for share in DEFAULT_SHARES),
    )
    keep_params: Sequence[float] | None = _several(
        "Make one for each of these shares of the parameters, in (0, 1].", "F", check_share
    )
    keep_size: Sequence[float] | None = _several(
        "Make one for each of these sizes of the file: amounts (4MB, 512kB; in Python numbers above 1), or shares of "
        "the original's, in (0, 1].",
        "SIZE",
        check_size,
        form="share or size",
    )
    keep_latency: Sequence[float] | None = _several(
        "Make one for each of these shares of the latency of a run, in (0, 1].", "F", check_share
    )
    latency_ms: Sequence[float] | None = _several(
        "Make one for each of these times of a run, in milliseconds.", "MS", check_milliseconds
    )
    max_drift: Sequence[float] | None = _several(
        "Make one for each of these limits of the mean relative error of the outputs, as with prune.",
        "X",
        check_promised_error,
    )
    min_agreement: Sequence[float] | None = _several(
        "Make one for each of these shares of inputs that keep their top-1 class, as with prune.",
        "A",
        check_promised_share,
    )
    latency_table: str | None = as_in(Options, "latency_table")

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        PruningOptions.__post_init__(self)
        given = self._given()
        if len(given) > 1:
            flags = " or ".join(dict(declared(SweepOptions))[name].flag_of(name) for name in given)
            raise OptionError(f"give values of one target: {flags}, not {'both' if len(given) == 2 else 'all'}")
        # Each is checked as one pruning is.
        assert self.targets

    @property
    def targets(self) -> tuple[SweepTarget, ...]:
        """The targets, in the order in which they were given, each with the options of a pruning to it alone.

        Raises:
            OptionError: The options do not go together.
        """
        name = next(iter(self._given()), "keep_macs")
        values: Sequence[float] = getattr(self, name) or DEFAULT_SHARES
        flag = dict(declared(SweepOptions))[name].flag_of(name)
        return tuple(SweepTarget(name, flag, value, self._pruning_to(name, value)) for value in values)

    def _pruning_to(self, target: str, value: float) -> Options:
        """Return the options of a pruning to one target."""
        shared: dict[str, Any] = {name: getattr(self, name) for name, _ in declared(PruningOptions)}
        shared |= {"latency_table": self.latency_table, target: value}
        return Options(**shared)

    def _given(self) -> list[str]:
        """Return the fields of the targets that are given."""
        return [name for name, option in declared(SweepOptions) if option.several and getattr(self, name) is not None]
