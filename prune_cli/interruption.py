"""SIGTERM and Ctrl-C: work stops at the next safe moment and is kept; a second signal ends the program at once.

The handler raises `Interrupted` where nothing can be spoilt, and only sets a flag while something is `undisturbed`: a
step of training, the writing of a file. Should a library swallow the exception, the next `pause` raises it again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: int | None = None  # the signal that asked us to stop; signals belong to the process, and so does this
_depth = 0  # of nested `undisturbed`


class Interrupted(BaseException):
    """The user or the system asks the program to end. Not an `Exception`: nobody should take it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def heed() -> None:
    """Take SIGINT and SIGTERM as a wish to stop, from now on; for the main thread of a program."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_DFL)
    _asked = number
    if _depth == 0:
        raise Interrupted(number)


def asked() -> int | None:
    """The signal that asks us to stop, if there was one."""
    return _asked


def pause() -> None:
    """A safe moment: raise what was held back."""
    if _asked is not None and _depth == 0 and threading.current_thread() is threading.main_thread():
        raise Interrupted(_asked)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back interruptions until this is through."""
    global _depth
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    pause()


def pass_on(pid: int, number: int) -> None:
    """Ask another process to stop too, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
