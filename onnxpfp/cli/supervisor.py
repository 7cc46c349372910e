"""The process that watches over the one that works.

Python handles a signal between two of its own instructions, so a run of onnxruntime or a product of matrices that takes
a minute would not be interrupted before it is over, and a crash in there, or the system's end of a process that has
taken all memory, would end the command without a word. So the command line works in a child process. Its parent takes
the signals, ends the child at once, removes what it has made and not finished, and says in one line what happened:

| what | exit code |
|---|---|
| Ctrl-C (SIGINT), SIGTERM, SIGHUP | 130, 143, 129 |
| the limit of `--timeout` is over, and the child has not stopped by itself | 124 |
| the child was killed by signal n, by a crash or for want of memory | 128 + n |

Outputs are replaced in a way that stands a kill at any moment (`onnxpfp.model.save_weights`). Where there is no fork
(Windows), and inside of other programs, everything runs in one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import click

from onnxpfp.errors import TimeLimitError, legible
from onnxpfp.supervision import Event, listen

__all__ = ["supervised"]

T = TypeVar("T")

PATIENCE = 0.7
"""Seconds that putting final files into place may take when everything is to end."""
GRACE = 2.0
"""Seconds after the limit in which the child may stop by itself, and say what it was at."""
_PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent ends (`prctl.h`)."""
_MESSAGES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_LEAVE_TERMINAL = "\r\x1b[2K\x1b[?25h"
"""Clear the line of the bar, and show the cursor."""


class _Stopped(BaseException):
    """The command is to end; `signal` is None where its time is over."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.signal = number


@dataclass(slots=True)
class _Child:
    """What is known of the process that works.

    Attributes:
        pid: Its number.
        pipe: Where it tells what it does.
        phase: What it is at.
        temporary: Paths that it has made or will make.
        saving: Whether it puts final files into place.
        saved: Whether it has put some there.
        told: Whether it has told the user of a failure.
        deadline: When it must have stopped, by the monotonic clock; None is never.
        timeout: The limit in seconds.
    """

    pid: int
    pipe: int
    phase: str = ""
    temporary: list[Path] = field(default_factory=list[Path])
    saving: bool = False
    saved: bool = False
    told: bool = False
    deadline: float | None = None
    timeout: float = 0.0
    _rest: bytes = b""

    def listen(self, seconds: float | None) -> bool:
        """Take what it tells within so many seconds; returns whether it lives."""
        if not select.select([self.pipe], [], [], seconds)[0]:
            return True
        with _unheard():
            received = os.read(self.pipe, 1 << 16)
            *lines, self._rest = (self._rest + received).split(b"\n")
            for line in lines:
                self._take(*json.loads(line))
        return bool(received)

    def _take(self, event: Event, what: str) -> None:
        match event:
            case "phase":
                self.phase = what
            case "temporary":
                self.temporary.append(Path(what))
            case "saving":
                self.saving = True
            case "saved":
                self.saving, self.saved = False, True
            case "timeout":
                self.timeout = float(what)
                self.deadline = time.monotonic() + self.timeout + GRACE
            case "told":
                self.told = True

    def work_on(self) -> int:
        """Wait until it ends; returns its status.

        Raises:
            _Stopped: Its time is over, or a signal came.
        """
        while True:
            left = None if self.deadline is None else self.deadline - time.monotonic()
            if left is not None and left <= 0:
                raise _Stopped(None)
            if not self.listen(left):
                return os.waitpid(self.pid, 0)[1]

    def end(self) -> None:
        """Kill it, but not while it gives final files their names, and remove what it leaves."""
        until = time.monotonic() + PATIENCE
        # What it has told so far may end with that.
        while self.listen(0.02 if self.saving else 0) and time.monotonic() < until and (self.saving or self._pending()):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        while self.listen(0) and self._pending():
            pass
        self.clean()

    def _pending(self) -> bool:
        return bool(select.select([self.pipe], [], [], 0)[0])

    def clean(self) -> None:
        """Remove its temporary files and folders."""
        for path in self.temporary:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _unheard() -> Generator[None]:
    """Hear no signal meanwhile: one that came between reading what was told and noting it would have it forgotten."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def supervised(work: Callable[[], T]) -> T:
    """Do some work in a child process, where the system can; this process then ends as the child does."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return work()
    parent, (read, write) = os.getpid(), os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until both know what to do about a signal, none is heard.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid:
        os.close(write)
        _watch(_Child(pid, read))
    os.close(read)
    _become_child(parent, write)
    return work()


def _become_child(parent: int, pipe: int) -> None:
    """End when the parent does, leave signals to it, and tell it everything."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)

    def ignore_with_parent(number: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:
            os._exit(128 + number)

    # A terminal sends its signals to both.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ignore_with_parent)

    def send(event: Event, what: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, json.dumps([event, what]).encode() + b"\n")

    listen(send)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _watch(child: _Child) -> NoReturn:
    """Wait for the child, and end as it does or as a signal says."""

    def stop(number: int, frame: FrameType | None) -> None:
        # One is enough: what follows takes less than a second.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    for number in _SIGNALS:
        # nohup(1) and shells that start something in the background have them ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        status = child.work_on()
    except _Stopped as stopped:
        child.end()
        _leave_terminal()
        if stopped.signal is None:
            _fail(child, _overdue(child), "the model may have a loop that never ends", TimeLimitError.exit_code)
        _fail(child, _MESSAGES.get(signal.Signals(stopped.signal), "hung up"), "", 128 + stopped.signal)
    if os.WIFSIGNALED(status):
        child.clean()
        _leave_terminal()
        _fail(child, *_death(child, os.WTERMSIG(status)), 128 + os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


def _overdue(child: _Child) -> str:
    return f"not done after {child.timeout:g} s{_at(child)}"


def _death(child: _Child, number: int) -> tuple[str, str]:
    """Say what killed the child, and what to do."""
    written = "" if child.saved else "; nothing was written"
    if number == signal.SIGKILL:
        return f"killed from outside{_at(child)}, maybe because the memory was full{written}", (
            "a smaller --workspace or --batch-size needs less"
        )
    if number == signal.SIGTERM:
        return f"terminated{_at(child)}{written}", ""
    return f"onnxruntime or another library crashed ({signal.Signals(number).name}){_at(child)}{written}", (
        "the model or that library is broken; another version of onnxruntime may tell more"
    )


def _at(child: _Child) -> str:
    return f": it was at {child.phase}" if child.phase else ""


def _fail(child: _Child, message: str, hint: str, code: int) -> NoReturn:
    if not child.told:
        click.echo(f"Error: {legible(message)}", err=True)
        if hint:
            click.echo(f"Hint: {legible(hint)}", err=True)
    sys.stderr.flush()
    os._exit(code)


def _leave_terminal() -> None:
    if sys.stderr.isatty():
        sys.stderr.write(_LEAVE_TERMINAL)
