"""Jobs of a benchmark, one after the other, and the names of them that a command line takes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["make_each", "names_among"]

J = TypeVar("J")


def make_each(wanted: Sequence[J], make: Callable[[J], None], title: Callable[[J], object] = str) -> int:
    """Do jobs one after the other, and say of each how long it took; return how many failed.

    Args:
        wanted: The jobs.
        make: Does one, and keeps its rows.
        title: What a job is called.
    """
    failed = 0
    for count, job in enumerate(wanted, 1):
        start = time.perf_counter()
        try:
            make(job)
        except Exception as error:
            # What is wrong with one job says nothing about the others, and all of them together take long.
            failed += 1
            print(f"FAILED {title(job)}\n{error}", file=sys.stderr, flush=True)
            continue
        print(f"{count}/{len(wanted)} {time.perf_counter() - start:.0f} s {title(job)}", file=sys.stderr, flush=True)
    return failed


def names_among(text: str, known: Sequence[str], what: str) -> list[str]:
    """Read comma-separated names.

    Raises:
        argparse.ArgumentTypeError: One is not known.
    """
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: the {what} are {', '.join(known)}")
    return names
