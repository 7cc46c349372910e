"""Shares of single layers that a user sets: `--share 'PATTERN=0.5'`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxpfp.errors import OptionError

__all__ = ["check_shares", "shares_by_pattern"]

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
