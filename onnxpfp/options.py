"""What a user may ask for, validated once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnxpfp.errors import OptionError

__all__ = ["DEFAULT_KEEP_MACS", "DEFAULT_WORKSPACE", "SCORES", "Known", "Options"]

DEFAULT_KEEP_MACS = 0.7
"""Share of the MACs that stays where no target is given."""
DEFAULT_WORKSPACE = 512_000_000
"""Bytes."""
LEAST_WORKSPACE = 1_000_000
"""Bytes; who gives less has another unit in mind."""

SCORES: Mapping[str, bool] = {
    "pfp": False,
    "reconstruction": True,
    "energy": True,
    "l1": False,
    "l2": False,
    "fpgm": False,
    "bn-scale": False,
    "lamp": False,
    "random": False,
    "wanda": True,
    "thinet": True,
    "hrank": True,
    "apoz": True,
    "chip": True,
}
"""What may rank channels, and whether it needs data. A test holds it against the baselines, which import numpy."""

Known = Literal["file", "few", "random", "none"]
"""What is known of the user's data: enough to hold some out, too few for that, noise in their place, nothing."""

ALIGNMENT = 8
"""Multiple to which channels are kept by default: what vector units work in (peers.md 3.4)."""
WIDE = 32
"""Groups narrower than this are not rounded by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to prune.

    Attributes:
        keep_macs: Share of the MACs that stays, in (0, 1].
        keep_params: Share of the parameters that stays, in (0, 1]; one target at most.
        max_drift: In their place: the largest relative output error on held-out samples; as much of the MACs goes as it
            allows.
        min_agreement: Likewise: the smallest share of held-out samples with the same top-1 class, in (0, 1].
        select: Which channels stay: the most sensitive (deterministic), a weighted draw (sampled),
            both (mixed), or per group the one with the smallest bound (auto); where no bound is below 1, auto
            ranks by mean output energy.
        score: What ranks the channels of a group: pfp (the sensitivities, and by weights alone where there are no
            data), reconstruction (how much worse the refitted consumers become), energy (the mean share of the
            consumers' output energy), or a baseline of `onnxpfp.score.baselines`.
        allocate: What sets the widths of the groups: measured (the drift of the output when a group alone is narrowed),
            bound (one error bound for all groups) or uniform (one share). None means measured with data, else bound.
        steps: How often scores and widths are measured anew on the network as it is pruned by then.
        kernel: Sensitivity over a channel's whole kernel window (sum; the bound holds) or over
            single taps (max; the authors' code).
        compensate: What is done about the dropped channels: none; their mean goes into the consumers' biases (bias);
            or every linear op is refitted by least squares (lstsq). auto means lstsq with data, bias with noise or too
            few samples to hold some out, none without.
        delta: Probability with which the bounds may fail.
        seed: Of the one random generator.
        threads: Of onnxruntime; None leaves it the choice.
        workspace: Bytes that intermediates of measuring and fitting may take, beside the network itself.
        providers: Execution providers in priority order, comma-separated.
        strict_providers: Whether a node that only the CPU can run is an error where other providers were asked for.
        round_to: Channels of a group stay in multiples of it; None means 8 for groups of at least
            32 channels, 1 below.
        min_channels: Fewest channels of a group that stay.
        attention: What goes from an attention: whole heads, or the same part of every head (width).
        include: Patterns of nodes and initializers that alone may be pruned.
        exclude: Patterns of nodes and initializers that stay as they are.
        samples: Most calibration samples to use; None means all.
        batch_size: Most samples in one run; None chooses.
        input_shapes: Shapes of inputs with free axes.
    """

    keep_macs: float | None = None
    keep_params: float | None = None
    max_drift: float | None = None
    min_agreement: float | None = None
    select: Literal["deterministic", "sampled", "mixed", "auto"] = "auto"
    score: str = "pfp"
    allocate: Literal["bound", "measured", "uniform"] | None = None
    steps: int = 1
    kernel: Literal["sum", "max"] = "sum"
    compensate: Literal["auto", "lstsq", "bias", "none"] = "auto"
    delta: float = 1e-16
    seed: int = 0
    threads: int | None = None
    workspace: int = DEFAULT_WORKSPACE
    providers: str = "cpu"
    strict_providers: bool = False
    round_to: int | None = None
    min_channels: int = 1
    attention: Literal["heads", "width"] = "heads"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    samples: int | None = None
    batch_size: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def __post_init__(self) -> None:
        targets = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            flags = " or ".join(f"--{name.replace('_', '-')}" for name in targets)
            raise OptionError(f"give one target: {flags}, not {'both' if len(targets) == 2 else 'all'}")
        if self.max_drift is not None and not self.max_drift > 0:
            raise OptionError(f"--max-drift {self.max_drift:g} must be above 0", hint="--max-drift 0.05 allows 5 %")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise OptionError(
                f"--min-agreement {self.min_agreement:g} is outside (0, 1]", hint="--min-agreement 0.99 means 99 %"
            )
        if self.steps > 1 and (self.max_drift is not None or self.min_agreement is not None):
            raise OptionError("--max-drift and --min-agreement try many targets, so they go with --steps 1")
        for name, share in (("--keep-macs", self.keep_macs), ("--keep-params", self.keep_params)):
            if share is not None and not 0 < share <= 1:
                raise OptionError(
                    f"{name} {share:g} is outside (0, 1]",
                    hint=f"{name} 0.7 keeps 70 %",
                )
        if self.score != "pfp" and self.select in {"sampled", "mixed"}:
            raise OptionError(f"--select {self.select} draws by sensitivity, so it needs --score pfp")
        if not 0 < self.delta < 1:
            raise OptionError(f"--delta {self.delta:g} is no probability between 0 and 1")
        if self.steps > 1 and self.select in {"sampled", "mixed"}:
            raise OptionError(f"--select {self.select} draws once, so it goes with --steps 1")
        for name in ("steps", "threads", "round_to", "min_channels", "samples", "batch_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                flag = "calib-samples" if name == "samples" else name.replace("_", "-")
                raise OptionError(f"--{flag} {number} must be at least 1")
        if self.workspace < LEAST_WORKSPACE:
            raise OptionError(f"--workspace {self.workspace} bytes is less than 1MB", hint="512MB is the default")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise OptionError(f"--{name} '{value}' is none of {', '.join(allowed)}")
        if not math.isfinite(self.seed) or self.seed < 0:
            raise OptionError(f"--seed {self.seed} must not be negative")

    @property
    def needs_data(self) -> bool:
        """Whether the scores look at activations and there is nothing to take in their place."""
        return SCORES[self.score]

    def compensation(self, known: Known) -> Literal["lstsq", "bias", "none"]:
        """Return what is done about the dropped channels."""
        if known == "none":
            return "none"
        if self.compensate == "auto":
            return "lstsq" if known == "file" else "bias"
        return self.compensate

    def allocation(self, known: Known) -> Literal["bound", "measured", "uniform"]:
        """Return what sets the widths; noise tells nothing about the output."""
        return self.allocate or ("measured" if known == "file" else "bound")

    @property
    def target(self) -> tuple[Literal["macs", "params"], float]:
        """What is counted, and the share of it that stays."""
        if self.keep_params is not None:
            return "params", self.keep_params
        return "macs", DEFAULT_KEEP_MACS if self.keep_macs is None else self.keep_macs

    def step(self, channels: int) -> int:
        """Multiple in which a group of so many channels is kept."""
        if self.round_to is None:
            return ALIGNMENT if channels >= WIDE else 1
        return self.round_to if channels >= self.round_to else 1


_TARGETS = ("keep_macs", "keep_params", "max_drift", "min_agreement")

_CHOICES = {
    "select": ("deterministic", "sampled", "mixed", "auto"),
    "score": tuple(SCORES),
    "allocate": ("bound", "measured", "uniform"),
    "kernel": ("sum", "max"),
    "compensate": ("auto", "lstsq", "bias", "none"),
    "attention": ("heads", "width"),
}
