"""`--workspace 512MB`: amounts of memory as they are typed."""

from __future__ import annotations

import re
from fractions import Fraction

from onnxpfp.errors import OptionError

__all__ = ["parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT]i?)?B", re.IGNORECASE)
_PREFIXES = "KMGT"


def parse_size(flag: str, text: str) -> int:
    """Read an amount of memory: a number and a unit, of 1000 (MB) or of 1024 (MiB), in any case.

    Args:
        flag: The option that it was given for.
        text: What was typed.

    Returns:
        Whole bytes.

    Raises:
        OptionError: The text is no amount of memory.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise OptionError(f"{flag} '{text}' is no amount of memory", hint=f"write {flag} 512MB, 2GB or 1.5GiB")
    number, prefix = found.groups(default="")
    base = 1024 if len(prefix) > 1 else 1000
    power = 1 + _PREFIXES.index(prefix[0].upper()) if prefix else 0
    return int(Fraction(number) * base**power)
