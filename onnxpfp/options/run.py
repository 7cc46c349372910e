"""Options of any verb, of those that look at a network's scope, and of those that choose channels by runs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from onnxpfp.errors import OptionError
from onnxpfp.options.checks import (
    check_at_least_one,
    check_criterion,
    check_libraries,
    check_multiple,
    check_probability,
    check_ranges,
    check_seconds,
)
from onnxpfp.options.declaration import declare, declared
from onnxpfp.options.sampled_run import SampledRunOptions

__all__ = [
    "SCORES",
    "AllocationRule",
    "ModelOptions",
    "RunOptions",
    "ScopeOptions",
    "WidthRule",
]

SCORES: Mapping[str, str] = {
    "pfp": "pfp:Pfp",
    "coreset": "coreset:Coreset",
    "coreset-share": "coreset:CoresetShare",
    "sipp": "pfp:Sipp",
    "mean-share": "mean_share:MeanShare",
    "reconstruction": "reconstruction:Reconstruction",
    "energy": "energy:Energy",
    "l1": "magnitude:L1",
    "l2": "magnitude:L2",
    "fpgm": "magnitude:Fpgm",
    "bn-scale": "magnitude:BnScale",
    "lamp": "magnitude:Lamp",
    "random": "magnitude:Random",
    "wanda": "energy:Wanda",
    "thinet": "thinet:ThiNet",
    "hrank": "maps:HRank",
    "apoz": "maps:Apoz",
    "chip": "maps:Chip",
    "feature-statistics": "feature_statistics:FeatureStatistics",
}
"""Criteria that may rank channels: a file of `onnxpfp.score`, and the class in it. Names load no numpy."""

_DRAWN = ("pfp", "sipp", "coreset", "coreset-share")
"""Scores that are sensitivities, so that channels may be drawn by them."""


class CriterionLike(Protocol):
    """A criterion that a user passes himself: an instance of `onnxpfp.Criterion`."""

    name: ClassVar[str]


AllocationRule = Literal["measured", "bound", "uniform"]
"""What sets the widths: `--allocate`."""
WidthRule = AllocationRule | Literal["criterion"]
"""The same, or the criterion itself, where `--dfs` or `--sfs` say what goes and no target does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Options of every verb: the input shapes, ops that onnxruntime lacks, and how long it may take."""

    input_shapes: Mapping[str, tuple[int, ...]] = declare(
        {},
        "Shape of an input with free axes. A model with one input needs no name.",
        "data",
        flag="input-shape",
        metavar="NAME:1,3,224,224",
        form="shape",
        repeated=True,
    )
    custom_ops: Sequence[str] = declare(
        (),
        "Register the custom ops of this library with onnxruntime. Without it only what lies before such ops is pruned "
        "or compared.",
        "runtime",
        metavar="LIBRARY",
        repeated=True,
        check=check_libraries,
    )
    timeout: float | None = declare(
        None,
        "Stop after so many seconds, whatever is running then, and write nothing.",
        "runtime",
        metavar="SECONDS",
        default_text="never",
        check=check_seconds,
    )

    def __post_init__(self) -> None:
        for name, option in declared(type(self)):
            value = getattr(self, name)
            if value is None:
                continue
            flag = option.flag_of(name)
            if option.repeated and isinstance(value, str):
                # Its letters are no values.
                given = f"['{value}']" if option.form == "plain" else "a mapping of names"
                raise OptionError(f"{flag} takes several values, not the text '{value}'", hint=f"give {given}")
            if option.choices and isinstance(value, str) and value not in option.choices:
                raise OptionError(f"{flag} '{value}' is none of {', '.join(option.choices)}")
            if option.check is not None:
                option.check(flag, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeOptions(ModelOptions):
    """Options of every verb that looks at channels: what may be pruned.

    The patterns are of `factorize` and `sparsify`, too, where they mean layers and single weights.
    """

    attention: Literal["heads", "width"] = declare(
        "heads",
        "Prune whole attention heads, or the same dimensions in every head.",
        "choice",
        choices=("heads", "width"),
    )
    include: Sequence[str] = declare(
        (),
        "Apply to these nodes and initializers only: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )
    exclude: Sequence[str] = declare(
        (),
        "Do not apply to these nodes and initializers: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(SampledRunOptions, ScopeOptions):
    """Options of the verbs that choose channels by runs of the network: the choice, and those of its runs."""

    input_ranges: Mapping[str, tuple[float, float]] = declare(
        {},
        "Range of the numbers of an input, for the bounds of --score coreset; with data it takes the place of what is "
        "measured on them. A model with one input needs no name.",
        "choice",
        flag="input-range",
        metavar="NAME:LOW,HIGH",
        form="range",
        repeated=True,
        check=check_ranges,
    )
    select: Literal["deterministic", "sampled", "mixed", "auto"] = declare(
        "auto",
        "How to choose the channels of a group: keep the most sensitive (deterministic), draw by sensitivity "
        "(sampled), or both (mixed). auto: the one with the smallest error bound; if none is below 1, keep the "
        "channels with the most output energy.",
        "choice",
        choices=("auto", "deterministic", "sampled", "mixed"),
    )
    score: str | CriterionLike = declare(  # noqa: RUF009
        "pfp",
        "How to rank the channels of a group: by sensitivity (pfp; without data coreset-share), by the largest "
        "sensitivity of the single weights that read them (sipp: pfp with --kernel max), by the most that they can "
        "add to an output (coreset) or by their largest share of the most that an output can be (coreset-share), by "
        "their mean share of the outputs of the layers that read them (mean-share), by the error after the refit of "
        "these layers (reconstruction), by their share of the output energy (energy), or by a baseline.",
        "choice",
        choices=tuple(SCORES),
        check=check_criterion,
    )
    allocate: AllocationRule | None = declare(  # noqa: RUF009
        None,
        "How to set the width of each group: by the measured drift of the output, by one sum of what every group "
        "drops of its scores (the bound of PFP), or by one share for all groups.",
        "choice",
        choices=("measured", "bound", "uniform"),
        default_text="measured with data, else bound",
    )
    kernel: Literal["sum", "max"] = declare(
        "sum",
        "Measure sensitivity over whole kernel windows, or over single kernel entries (as the code of PFP's authors "
        "does; the bound is as many times larger as a channel has entries).",
        "choice",
        choices=("sum", "max"),
    )
    compensate: Literal["auto", "lstsq", "bias", "merge", "none"] = declare(
        "auto",
        "Make up for dropped channels: refit the layers that read them by least squares (lstsq), fold their means into "
        "biases (bias), merge each into the kept one whose maps are most alike, with a cosine of --sfs or more, and "
        "fold the means of the others (merge), or nothing (none). auto is lstsq with enough samples, else bias.",
        "choice",
        choices=("auto", "lstsq", "bias", "merge", "none"),
    )
    delta: float = declare(
        1e-16,
        "Probability that the bound of a drawn selection may fail over its draws; how many samples PFP's size formula "
        "asks for follows from it, too.",
        "choice",
        metavar="P",
        check=check_probability,
    )
    round_to: int | Literal["auto"] = declare(
        "auto",
        "Keep channels in multiples of N. auto: of what the kernels of the device compute at once, in groups of four "
        "times as many or more, and of smaller ones down to 8 in narrower groups.",
        "choice",
        metavar="N|auto",
        form="count",
        check=check_multiple,
    )
    min_channels: int = declare(
        1, "Keep at least N channels of every group.", "choice", metavar="N", check=check_at_least_one
    )

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        ModelOptions.__post_init__(self)
        if self.score not in _DRAWN and self.select in {"sampled", "mixed"}:
            raise OptionError(f"--select {self.select} draws by sensitivity, so it needs --score pfp, sipp or coreset")
        if self.input_ranges and self.score != "coreset":
            raise OptionError("--input-range goes with --score coreset: no other score looks at it")

    @property
    def entries(self) -> Literal["sum", "max"]:
        """What of the entries of a kernel window a sensitivity takes; that of single weights is of single entries."""
        return "max" if self.score == "sipp" else self.kernel
