"""Mistakes a person can mend: each message is one line that says what, where, what was received and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMED = 16  # of the names that would have been right, where the nearest are not enough


class ConvatlasError(Exception):
    """Base of every error convatlas raises on purpose; the command line prints it without a traceback, exit code 2."""


class UnknownNameError(ConvatlasError):
    """A model, recipe, data set, setting or run that does not exist."""


class ImageSizeError(ConvatlasError):
    """Images of a size that the network cannot take."""


class DataError(ConvatlasError):
    """Images, labels or archives that cannot be used as they are."""


class RecipeError(ConvatlasError):
    """A training recipe that does not make sense."""


class RunError(ConvatlasError):
    """A run directory that cannot be opened, resumed or written."""


class TrainingError(ConvatlasError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class InspectionError(ConvatlasError):
    """A module that cannot be inspected, or of which what is asked is not known."""


class StorageError(ConvatlasError):
    """The disk refused a write; what was there before is untouched."""


def unknown_name(kind: str, received: str, known: Iterable[str], see: str = "") -> UnknownNameError:
    """An error that names the nearest known names.

    >>> print(unknown_name("model", "vgg61", ["vgg11", "vgg16"], see="convatlas models"))
    there is no model named 'vgg61'; did you mean vgg16, vgg11? `convatlas models` lists them all
    """
    known = list(known)
    near = difflib.get_close_matches(received, known, n=3)
    meant = f"; did you mean {', '.join(near)}?" if near else ";"
    named = sorted(known)[:MOST_NAMED]
    more = f" and {len(known) - len(named)} more" if len(known) > len(named) else ""
    everything = f" `{see}` lists them all" if see else f" Known: {', '.join(named)}{more}"
    return UnknownNameError(f"there is no {kind} named {received!r}{meant}{everything}")
