"""What the report of a pruning says of its target, and of how one of quality was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxpfp.allocation.fixed_sequence import ShareTest
from onnxpfp.allocation.search import Trial
from onnxpfp.counted import counted
from onnxpfp.pipeline.costs import QUANTITIES
from onnxpfp.pipeline.quality_target import Certified

__all__ = ["asked", "promised_quality", "reached_quality"]


def asked(target: Mapping[str, float]) -> str:
    """Say what was asked for, but for a latency.

    Args:
        target: macs, params or size with the share that stays, size above 1 with the bytes of the file, max_drift or
            min_agreement with the bound.
    """
    return ", ".join(_asked(name, value) for name, value in target.items())


def _asked(name: str, value: float) -> str:
    if name == "max_drift":
        return f"as few MACs as a mean relative output error of {value:g} allows"
    if name == "min_agreement":
        return f"as few MACs as a top-1 agreement of {100 * value:.4g} % allows"
    if name == "size" and value > 1:
        return f"a file of at most {value:,.0f} bytes"
    return f"keep {100 * value:.4g} % of the {QUANTITIES[name].title}"


def reached_quality(share: float, promise: str, trials: Sequence[Trial], tests: Sequence[ShareTest]) -> str:
    """Say what a target of quality led to, what is promised of it, and how it was found.

    Args:
        share: Share of the MACs that is left.
        promise: As `promised_quality` says it.
        trials: Shares that were tried on tuning samples, in their order.
        tests: Shares that were tested on held-out samples, in their order.
    """
    tried = ", ".join(f"{100 * t.share:.0f} % {'good' if t.good else 'too far'}" for t in trials)
    tested = ", ".join(f"{100 * t.share:.0f} % {'passed' if t.passed else 'failed'}" for t in tests)
    return (
        f"{100 * share:.1f} % of the MACs: {promise}; {counted(len(trials), 'trial')} on tuning samples ({tried}), "
        f"then {counted(len(tests), 'share')} tested on the held-out ones ({tested})"
    )


def promised_quality(
    target: Mapping[str, float], certified: Certified | None, confidence: float, *, noise: bool
) -> str:
    """Say what held-out samples promise: what was asked for, and not the bound of the share that they chose.

    Args:
        target: max_drift or min_agreement with the bound.
        certified: What held-out samples say of the written file; None where there is nothing.
        confidence: That of the promise.
        noise: Whether they are noise.
    """
    if certified is None:
        return "nothing is promised"
    held_out = counted(certified.samples, "held-out sample")
    with_confidence = f"with a confidence of {100 * confidence:g} %"
    inputs = "inputs of such noise" if noise else "inputs"
    if "min_agreement" in target:
        least, agree = 100 * target["min_agreement"], round(certified.observed * certified.samples)
        of = f"(exact binomial, {agree} of {held_out} do)"
        return f"{with_confidence}, at least {least:g} % of {inputs} keep their class {of}"
    return (
        f"{with_confidence}, the relative output error of one input, counted as 1 where it is more, is at most "
        f"{target['max_drift']:g} in the mean over {inputs} (by betting, {certified.observed:.3g} on {held_out})"
    )
