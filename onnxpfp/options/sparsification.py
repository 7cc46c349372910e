"""Options of the verb that sets single weights to zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxpfp.errors import OptionError
from onnxpfp.options import ModelOptions, Options, ScopeOptions
from onnxpfp.options.checks import check_probability, check_share
from onnxpfp.options.declaration import as_in, declare, shared_values
from onnxpfp.options.sampled_run import SampledRunOptions
from onnxpfp.options.verification import VerifyOptions

__all__ = ["SparsifyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyOptions(SampledRunOptions, ModelOptions):
    """Options of the verb that sets single weights to zero."""

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
    include: Sequence[str] = as_in(ScopeOptions, "include")
    exclude: Sequence[str] = as_in(ScopeOptions, "exclude")
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
        # These mean single weights here, not channels.
        shared = shared_values(self, Options, but=("include", "exclude", "select", "delta"))
        return Options(no_latency=True, compensate="none", **shared)

    def comparing(self) -> VerifyOptions:
        """Return the options with which the result is compared with the original."""
        return VerifyOptions(no_latency=True, **shared_values(self, VerifyOptions))
