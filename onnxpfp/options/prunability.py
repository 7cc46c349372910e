"""Options of the verb that measures how little can be kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from onnxpfp.errors import OptionError
from onnxpfp.options import ModelOptions, Options, RunOptions, ScopeOptions
from onnxpfp.options.checks import check_at_least_one, check_tolerance
from onnxpfp.options.declaration import declare, declared, shared_values

__all__ = ["PrunabilityOptions"]


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
        return Options(**shared_values(self, Options))
