"""What can go wrong, by whose doing: the user's request (exit status 2) or the run itself (exit
status 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """A request that cannot be served as made. Its message is one line: field, value, what is
    allowed, remedy.
    """


class RecipeError(RequestError):
    """A recipe or sweep file, or an option, with an unknown key or a value that is not allowed."""


class DataError(RequestError):
    """A data set that is missing, damaged, or not what the recipe needs."""


class CheckpointError(RequestError):
    """A checkpoint file that cannot be read, is damaged, or belongs to another network
    or recipe.
    """


class RunFailed(RuntimeError):
    """A run that started well and cannot go on; its message names the cause."""


class NonFiniteLoss(RunFailed):
    """The training loss became infinite or NaN; the message says at which epoch and step, with lr,
    t and k.
    """


def one_line(error: object) -> str:
    """The text of an error, of ours or of a library, as one line."""
    return " ".join(str(error).split())


def nearest(word: str, known: Iterable[str]) -> str:
    """The known names closest to `word`, as text for an error line; all of them when
    none is close.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=4, cutoff=0.5) or names
    return ", ".join(close)
