"""Mistakes a person can mend: each message is one line that says what, where, what was received and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMED = 16  # of the names that would have been right, where the nearest are not enough
LONGEST_NAME = 160  # characters of a name or path that a message repeats
LONGEST_MESSAGE = 480  # characters of a message about data, whose names and numbers a stranger may have chosen


class ConvatlasError(Exception):
    """Base of every error convatlas raises on purpose; the command line prints it without a traceback, exit code 2."""


class UnknownNameError(ConvatlasError):
    """A model, recipe, data set, setting or run that does not exist."""


class ImageSizeError(ConvatlasError):
    """Images of a size that the network cannot take."""


class DataError(ConvatlasError):
    """Images, labels or archives that cannot be used as they are; the message is `shortened`, whatever it repeats."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))


class RecipeError(ConvatlasError):
    """A training recipe that does not make sense."""


class RunError(ConvatlasError):
    """A run directory that cannot be opened, resumed or written."""


class TrainingError(ConvatlasError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class InspectionError(ConvatlasError):
    """A module that cannot be inspected, or of which what is asked is not known."""


class NetworkCodeError(ConvatlasError):
    """A network of one's own, whose code cannot be run or makes no classifier."""


class WeightsError(ConvatlasError):
    """A file of weights that cannot be read, or is not of this network."""


class ExplanationError(ConvatlasError):
    """An image, a class or a layer of which a network's answer cannot be explained."""


class StorageError(ConvatlasError):
    """The disk refused a write; what was there before is untouched."""


def shortened(text: object, most: int = LONGEST_NAME) -> str:
    """A name or path as a message repeats it: the middle of a long one is left out.

    >>> shortened("a" * 50 + ".png", most=20)
    'aaaaaaaaa...aaaa.png'
    """
    whole = str(text)
    if len(whole) <= most:
        return whole
    end = (most - 3) // 2
    return f"{whole[: most - 3 - end]}...{whole[-end:]}"


def first_of(names: Iterable[object], most: int = 8) -> str:
    """The first of some names, and how many more there are.

    >>> first_of(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    every = [shortened(name, 40) for name in names]
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def unknown_name(
    kind: str, received: str, known: Iterable[str], see: str = "", beside: Iterable[str] = ()
) -> UnknownNameError:
    """An error that names the nearest known names; or of those ``beside``, which are not listed where none is near.

    >>> print(unknown_name("model", "vgg61", ["vgg11", "vgg16"], see="convatlas models"))
    there is no model named 'vgg61'; did you mean vgg16, vgg11? `convatlas models` lists them all
    """
    known, received = list(known), shortened(received)
    near = difflib.get_close_matches(received, [*known, *beside], n=3)
    meant = f"; did you mean {', '.join(near)}?" if near else "."
    named = sorted(known)[:MOST_NAMED]
    more = f" and {len(known) - len(named)} more" if len(known) > len(named) else ""
    everything = f" `{see}` lists them all" if see else f" Known: {', '.join(named)}{more}"
    return UnknownNameError(f"there is no {kind} named {received!r}{meant}{everything}")
