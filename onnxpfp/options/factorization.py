"""Options of the verb that puts two ops of low rank in the place of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onnxpfp.errors import OptionError
from onnxpfp.options import DEFAULT_KEEP_MACS, ModelOptions, Options, ScopeOptions
from onnxpfp.options.checks import check_kept_energy, check_multiple
from onnxpfp.options.declaration import as_in, declare, shared_values
from onnxpfp.options.verification import ComparisonOptions, VerifyOptions

__all__ = ["FactorizeOptions"]


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
    include: Sequence[str] = as_in(ScopeOptions, "include")
    exclude: Sequence[str] = as_in(ScopeOptions, "exclude")
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
        return Options(**shared_values(self, Options, but=("include", "exclude")))

    def comparing(self) -> VerifyOptions:
        """Return the options with which the result is compared with the original."""
        # Latency is measured apart: ops that are new have no time before.
        return replace(VerifyOptions(**shared_values(self, VerifyOptions)), no_latency=True)
