"""Options of the verbs beside `prune`, and which class each verb takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from onnxpfp.errors import OptionError
from onnxpfp.options import DEFAULT_KEEP_MACS, ModelOptions, Options, RunOptions, ScopeOptions
from onnxpfp.options.checks import (
    check_at_least_one,
    check_kept_energy,
    check_largest_error,
    check_least_share,
    check_multiple,
    check_probability,
    check_share,
    check_tolerance,
)
from onnxpfp.options.classes import check_class_options
from onnxpfp.options.data import DataOptions
from onnxpfp.options.declaration import as_in, declare, declared
from onnxpfp.options.scores import ScoreOptions
from onnxpfp.options.sweep import SweepOptions

__all__ = [
    "VERB_OPTIONS",
    "FactorizeOptions",
    "InspectOptions",
    "LatencyOptions",
    "PrunabilityOptions",
    "SparsifyOptions",
    "VerifyOptions",
]


class LabelArray(Protocol):
    """The class of every sample, as a list or an array has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunabilityOptions(RunOptions):
    """Options of the verb that measures how little can be kept."""

    tolerance: float = declare(
        0.05,
        "Largest acceptable loss of the output without labels: KL divergence of class scores, else the relative "
        "squared error.",
        "target",
        metavar="X",
        check=check_tolerance,
    )
    beta: float = declare(
        0.1,
        "With --labels, the largest acceptable loss is 1 + B times the original's cross-entropy, or 0.001 more than it "
        "if that is larger.",
        "target",
        metavar="B",
        check=check_tolerance,
    )
    labels: str | Path | LabelArray | None = declare(  # noqa: RUF009
        None,
        "Classes of the samples, counted from 0: the loss is the cross-entropy then. A .npy file, or a .npz file with "
        "one array; in Python an array, too.",
        "data",
        metavar="FILE",
    )
    measure: Literal["channels", "weights"] = declare(
        "channels",
        "What is left out: channels, group by group and in the whole network, or single weights of all layers "
        "together, which are set to zero.",
        "choice",
        choices=("channels", "weights"),
    )
    by: Literal["magnitude", "sipp", "random"] | None = declare(
        None,
        "With --measure weights, which of them stay: the largest (magnitude), those with the largest sensitivities on "
        "the samples, as sparsify keeps them (sipp), or as chance has it (random).",
        "choice",
        choices=("magnitude", "sipp", "random"),
        default_text="magnitude",
    )
    draws: int = declare(3, "With --by random, so many draws.", "choice", metavar="N", check=check_at_least_one)

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        RunOptions.__post_init__(self)
        if self.compensate == "merge":
            raise OptionError("--compensate merge goes with --sfs, so with prune alone")
        if self.measure == "channels" and self.by is not None:
            raise OptionError(f"--by {self.by} goes with --measure weights; --score ranks channels")
        if self.measure == "weights":
            self._refuse_choices()

    def _refuse_choices(self) -> None:
        """Refuse options that say how channels go."""
        plain, own = (
            RunOptions(),
            {name for name, _ in declared(ScopeOptions)} - {name for name, _ in declared(ModelOptions)},
        )
        own |= {name for name, option in declared(RunOptions) if option.section == "choice"}
        for name, option in declared(RunOptions):
            if name in own and getattr(self, name) != getattr(plain, name):
                raise OptionError(
                    f"{option.flag_of(name)} says how channels go, and --measure weights leaves out single weights"
                )

    def pruning(self) -> Options:
        """Return the options with which the network is pruned to shares of its MACs."""
        return Options(**{name: getattr(self, name) for name, _ in declared(RunOptions)})


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectOptions(ScopeOptions):
    """Options of the verb that prunes nothing: where runs are measured, if any are."""

    threads: int | None = as_in(RunOptions, "threads")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")
    no_latency: bool = as_in(Options, "no_latency")

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(**{name: getattr(self, name) for name, _ in declared(InspectOptions)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions(DataOptions, ModelOptions):
    """Options of the verbs that compare two files: their data, the runtime, and the latency."""

    samples: int | None = as_in(RunOptions, "samples")
    sample_axes: Mapping[str, int | None] = as_in(RunOptions, "sample_axes")
    batch_size: int | None = as_in(RunOptions, "batch_size")
    seed: int = as_in(RunOptions, "seed")
    threads: int | None = as_in(RunOptions, "threads")
    workspace: int = as_in(RunOptions, "workspace")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")
    latency_batch: int = as_in(Options, "latency_batch")
    no_latency: bool = as_in(Options, "no_latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(ComparisonOptions):
    """Options of the verb that compares two files."""

    max_drift: float | None = declare(
        None,
        "Do not pass a model whose outputs have a relative error above X.",
        "target",
        metavar="X",
        check=check_largest_error,
    )
    min_agreement: float | None = declare(
        None,
        "Do not pass a model whose top-1 class agrees with the original's on less than a share A of the samples.",
        "target",
        metavar="A",
        check=check_least_share,
    )
    keep_classes: str | Sequence[int | str] | None = as_in(Options, "keep_classes")
    class_names: str | Path | Sequence[str] | None = as_in(Options, "class_names")  # noqa: RUF009
    class_axes: Sequence[str] = as_in(Options, "class_axes")

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        ModelOptions.__post_init__(self)
        check_class_options(self.keep_classes, self.class_names, self.class_axes)

    def running(self) -> Options:
        """Return the options with which both networks are read and run."""
        common = {name for name, option in declared(Options) if option.section != "target"}
        return Options(**{name: getattr(self, name) for name, _ in declared(VerifyOptions) if name in common})


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyOptions(DataOptions, ScopeOptions):
    """Options of the verb that measures a latency table."""

    samples: int | None = as_in(RunOptions, "samples")
    sample_axes: Mapping[str, int | None] = as_in(RunOptions, "sample_axes")
    batch_size: int | None = as_in(RunOptions, "batch_size")
    round_to: int | Literal["auto"] = declare(
        "auto",
        "Take widths in multiples of N alone. auto: in multiples of 1, 4, 8, 16 and 32, and then of those that "
        "are not much slower, in turns.",
        "choice",
        metavar="N|auto",
        form="count",
        check=check_multiple,
    )
    seed: int = as_in(RunOptions, "seed")
    threads: int | None = as_in(RunOptions, "threads")
    workspace: int = as_in(RunOptions, "workspace")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")
    latency_batch: int = as_in(Options, "latency_batch")

    def running(self) -> Options:
        """Return the options with which the network is read and run; what is fitted is the same for every share."""
        return Options(keep_latency=0.5, **{name: getattr(self, name) for name, _ in declared(LatencyOptions)})


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorizeOptions(ComparisonOptions):
    """Options of the verb that puts two ops of low rank in the place of one."""

    keep_macs: float | None = as_in(Options, "keep_macs")
    energy: float | None = declare(
        None,
        "Give every layer the smallest rank that keeps this share, in (0, 1]: of its outputs' variance with data, else "
        "of its weights' energy. A layer in which that saves no multiply-adds stays.",
        "target",
        metavar="T",
        check=check_kept_energy,
    )
    scheme: Literal["auto", "channel", "spatial"] = declare(
        "auto",
        "How to divide a kernel: all of its axes in the first op and none in the second (channel), or some in each "
        "(spatial; layers whose kernels have taps along one axis at most stay). auto: what loses less, layer by layer.",
        "choice",
        choices=("auto", "channel", "spatial"),
    )
    round_to: int | Literal["auto"] = declare(
        "auto",
        "Take ranks in multiples of N. auto: of what the kernels of the device compute at once where a layer has four "
        "times as many ranks or more, and of smaller ones down to 8 in narrower layers.",
        "choice",
        metavar="N|auto",
        form="count",
        check=check_multiple,
    )
    compensate: Literal["auto", "lstsq", "none"] = declare(
        "auto",
        "Refit the layers, factored or not, by least squares, front to back, towards the original's outputs "
        "(lstsq), or nothing (none). auto is lstsq with enough samples.",
        "choice",
        choices=("auto", "lstsq", "none"),
    )
    include: Sequence[str] = declare(
        (),
        "Factor only these nodes, and those that read these initializers: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )
    exclude: Sequence[str] = declare(
        (),
        "Do not factor these nodes, nor those that read these initializers: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )

    no_metadata: bool = as_in(Options, "no_metadata")

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        ModelOptions.__post_init__(self)
        if self.keep_macs is not None and self.energy is not None:
            raise OptionError("give one target: --keep-macs or --energy, not both")

    @property
    def share_of_macs(self) -> float | None:
        """The share of the multiply-adds that stays; None where the energy is the target."""
        if self.energy is not None:
            return None
        return DEFAULT_KEEP_MACS if self.keep_macs is None else self.keep_macs

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        # Patterns mean layers here, not channels.
        common = {name for name, option in declared(Options) if option.section != "target"} - {"include", "exclude"}
        return Options(**{name: getattr(self, name) for name, _ in declared(FactorizeOptions) if name in common})

    def comparing(self) -> VerifyOptions:
        """Return the options with which the result is compared with the original."""
        common = {name for name, option in declared(VerifyOptions) if option.section != "target"}
        asked = VerifyOptions(**{name: getattr(self, name) for name, _ in declared(FactorizeOptions) if name in common})
        # Latency is measured apart: ops that are new have no time before.
        return replace(asked, no_latency=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyOptions(DataOptions, ModelOptions):
    """Options of the verb that sets single weights to zero."""

    samples: int | None = as_in(RunOptions, "samples")
    sample_axes: Mapping[str, int | None] = as_in(RunOptions, "sample_axes")
    batch_size: int | None = as_in(RunOptions, "batch_size")
    keep_weights: float = declare(
        0.5,
        "Keep this share, in (0, 1], of the weights that are not zero, over all layers whose weights may go.",
        "target",
        metavar="F",
        check=check_share,
    )
    select: Literal["deterministic", "sampled", "hybrid"] = declare(
        "deterministic",
        "How to choose the weights: keep those with the largest sensitivities of the whole network as they are "
        "(deterministic), draw from every filter by sensitivity and scale what is drawn (sampled), or of every filter "
        "whichever has the smaller bound (hybrid).",
        "choice",
        choices=("deterministic", "sampled", "hybrid"),
    )
    positions: Literal["max", "mean"] = declare(
        "max",
        "Of the shares that a weight has at the positions of one sample, take the largest, which the bound needs "
        "(max), or of convolutions their mean, as the authors' code does where weights stay as they are (mean).",
        "choice",
        choices=("max", "mean"),
    )
    delta: float = declare(
        1e-16,
        "Probability that the bound of a layer that is drawn may fail over its draws, for one input.",
        "choice",
        metavar="P",
        check=check_probability,
    )
    sparse_initializers: bool = declare(
        False,
        "Store weights as sparse tensors where that takes fewer bytes: where less than a third is left of float32.",
        "choice",
    )
    include: Sequence[str] = declare(
        (),
        "Change only the weights of these nodes, and these initializers: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )
    exclude: Sequence[str] = declare(
        (),
        "Do not change the weights of these nodes, nor these initializers: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT",
        repeated=True,
    )
    seed: int = as_in(RunOptions, "seed")
    threads: int | None = as_in(RunOptions, "threads")
    workspace: int = as_in(RunOptions, "workspace")
    providers: str = as_in(RunOptions, "providers")
    strict_providers: bool = as_in(RunOptions, "strict_providers")

    no_metadata: bool = as_in(Options, "no_metadata")

    def __post_init__(self) -> None:
        # The decorator makes a new class for the slots, which super() without arguments does not know.
        ModelOptions.__post_init__(self)
        if self.positions == "mean" and self.select != "deterministic":
            raise OptionError(
                f"--positions mean goes with --select deterministic: --select {self.select} draws by the largest shares"
            )

    def running(self) -> Options:
        """Return the options with which the network is read and run."""
        return Options(no_latency=True, compensate="none", **self._shared(Options))

    def comparing(self) -> VerifyOptions:
        """Return the options with which the result is compared with the original."""
        return VerifyOptions(no_latency=True, **self._shared(VerifyOptions))

    def _shared(self, kind: type[ModelOptions]) -> dict[str, Any]:
        """Return the values of the options that mean the same in another class: those of data and of running."""
        theirs = dict(declared(kind))
        return {name: getattr(self, name) for name, option in declared(SparsifyOptions) if theirs.get(name) == option}


VERB_OPTIONS: Mapping[str, type[ModelOptions]] = {
    "prune": Options,
    "sweep": SweepOptions,
    "factorize": FactorizeOptions,
    "sparsify": SparsifyOptions,
    "inspect": InspectOptions,
    "prunability": PrunabilityOptions,
    "verify": VerifyOptions,
    "latency": LatencyOptions,
    "score": ScoreOptions,
}
"""The options that each verb takes."""
