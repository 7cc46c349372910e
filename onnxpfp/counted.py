"""Numbers of things in words, for people: 1 sample, 2 samples."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write how many there are of something, and its name in the form that goes with the number.

    Args:
        number: How many.
        noun: What one is called, behind its adjectives.
        plural: What several are called; empty where an s behind the noun does it.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
