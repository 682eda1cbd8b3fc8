"""Stopping where nothing is lost: a signal is remembered, and the work looks whether one came where it can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from likewise.progress import say


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or SIGINT arrives; a second one interrupts at once."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        say("finishing this step, then saving; once more to stop at once")

    try:
        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: the caller's signals are the caller's
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
