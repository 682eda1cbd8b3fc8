"""Errors that a user can mend: one clear line each, and the exit code of the command line."""


class LikewiseError(Exception):
    """The run failed."""

    code = 1


class UsageError(LikewiseError, ValueError):
    """An argument or a recipe is wrong: the message names it, its value and what would be accepted."""

    code = 2


class DataError(LikewiseError, ValueError):
    """The data cannot be used: no images, too many bad ones, a file that is not what it must be."""

    code = 3


class TrainingError(LikewiseError):
    """Training diverged or collapsed."""

    code = 4


class Stopped(LikewiseError):
    """A signal stopped the run after its state was saved: resume it."""

    code = 75
