"""Progress for people: a bar on a terminal, a plain line now and then elsewhere, on stderr; nothing when quiet."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = True  # the library is silent; the command line switches this off
SPEAKS = os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"  # of several processes one does


class Bar:
    """Counts what was done, from `done` on, so that what an earlier process did takes no part in the rate. `update` may
    be called as often as one likes."""

    def __init__(self, what: str, total: int, done: int = 0, *, every: float = 10.0) -> None:
        self.what, self.total, self.begun, self.done, self.note = what, total, done, done, ""
        self.started = self.shown = time.monotonic()
        self.said: int | None = None  # what was done by the last plain line
        self.every = every  # seconds between plain lines

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note
        now = time.monotonic()
        if now - self.shown >= self.every:
            self.shown, self.said = now, done
            say(self.line())

    def line(self) -> str:
        elapsed = time.monotonic() - self.started
        made = self.done - self.begun
        left = elapsed / made * (self.total - self.done) if made else 0.0
        share = f"{self.done}/{self.total} ({self.done / max(self.total, 1):.0%})"
        return (
            f"{self.what} {share}, {_clock(elapsed)} elapsed, {_clock(left)} left{'  ' if self.note else ''}{self.note}"
        )


class _TerminalBar(Bar):
    """The same numbers, drawn with rich."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        super().__init__(what, total, done)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
        self.task = self.progress.add_task(what, total=total, completed=done, note="")

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note
        self.progress.update(self.task, completed=done, note=note)


@contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Bar]:
    """`with bar("decode", n) as progress: progress.update(i, "note")`."""
    if QUIET:
        yield Bar(what, total, done, every=float("inf"))
    elif sys.stderr.isatty():
        drawn = _TerminalBar(what, total, done)
        with drawn.progress:
            yield drawn
    else:
        plain = Bar(what, total, done)
        yield plain
        if plain.said not in (None, plain.done):
            say(plain.line())


def say(line: str) -> None:
    """A line for the person at the terminal, on stderr."""
    if not QUIET:
        print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
