"""Shares of single layers that a user sets: `--share 'PATTERN=0.5'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxpfp.errors import OptionError
from onnxpfp.options.declaration import declare

__all__ = ["ShareOptions", "check_shares", "shares_by_pattern"]

EXAMPLE = "--share 'layer1*=0.5' keeps half of the channels that these nodes bring forth"


def shares_by_pattern(value: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    """Return the shares by their patterns.

    Args:
        value: The same, or texts PATTERN=SHARE; a pattern may have equals signs, too.

    Raises:
        OptionError: A text is none, or a pattern has two shares.
    """
    if isinstance(value, Mapping):
        return dict(value)
    shares: dict[str, float] = {}
    for text in value:
        pattern, _, typed = text.rpartition("=")
        try:
            share = float(typed)
        except ValueError as error:
            raise OptionError(f"--share '{text}' is not of the form PATTERN=SHARE", hint=EXAMPLE) from error
        if not pattern:
            raise OptionError(f"--share '{text}' is not of the form PATTERN=SHARE", hint=EXAMPLE)
        if pattern in shares:
            raise OptionError(f"--share gives '{pattern}' two shares", hint="give it one")
        shares[pattern] = share
    return shares


def check_shares(flag: str, value: Mapping[str, float] | Sequence[str]) -> None:
    """Refuse what is no share of channels that stay."""
    for pattern, share in shares_by_pattern(value).items():
        if not 0 < share <= 1:
            raise OptionError(f"{flag} '{pattern}={share:g}' is outside (0, 1]", hint=EXAMPLE)


# Without slots of its own, for a class may inherit those of one parent only.
@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """The shares of single layers."""

    share: Mapping[str, float] | Sequence[str] = declare(
        (),
        "Keep this share of the channels that these nodes and initializers bring forth, or of a group by its name, and "
        "leave the rest to the allocation: a name, a glob, or re:REGEX.",
        "choice",
        metavar="PAT=F",
        repeated=True,
        check=check_shares,
    )

    def check_share(self, limit_flag: str, structure: str) -> None:
        """Refuse what shares of groups do not go with.

        Args:
            limit_flag: The flag of a target of quality; empty where there is none.
            structure: What may go.
        """
        if limit_flag:
            raise OptionError(
                f"--share sets widths, and {limit_flag} finds the share of the network by trying many",
                hint="give a target that is a share, a size or a latency, such as --keep-macs 0.7",
            )
        if "blocks" in structure.split(","):
            raise OptionError(
                f"--share keeps channels of a group, and --structure {structure} lets whole groups go",
                hint="--share goes with --structure channels or channels,rank",
            )
