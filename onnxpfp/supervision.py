"""What a run tells whoever watches over it: nobody in a program, another process on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

__all__ = ["Event", "Listener", "listen", "tell"]

Event = Literal["phase", "temporary", "saving", "saved", "timeout", "told"]
"""A phase goes on, a temporary path will be made, final files are put into place and are there, a limit of time in
seconds is set, a failure was told to the user."""
Listener = Callable[[Event, str], None]

_LISTENERS: list[Listener] = []


def listen(listener: Listener) -> None:
    """Tell somebody everything from now on."""
    _LISTENERS.append(listener)


def tell(event: Event, what: str = "") -> None:
    """Tell everybody who listens."""
    for listener in _LISTENERS:
        listener(event, what)
