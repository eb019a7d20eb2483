"""How numbers, settings and names are written in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unicodedata import category

UNPRINTABLE = ("Cc", "Cs", "Cn")  # Unicode's control characters, lone surrogates (undecodable bytes) and non-characters


def percent(share: float) -> str:
    r"""A share of 0..1 as a percentage.

    >>> percent(0.9123)
    '91.23\xa0%'
    """
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def rate(share: float) -> str:
    r"""A share of 0..1 as a percentage with three significant digits, for what may be rare.

    >>> rate(0.01), rate(0.00172), rate(0.8435), rate(0.99996)
    ('1\xa0%', '0.172\xa0%', '84.4\xa0%', '99.996\xa0%')
    """
    digits = 3 if share == 1 or round(share, 3) < 1 else 5  # what is almost all is not all
    return f"{100 * share:.{digits}g}\N{NO-BREAK SPACE}%"


def decimal(value: float) -> str:
    """A loss or rate with four significant digits.

    >>> decimal(0.34567), decimal(1e-4), decimal(float("nan"))
    ('0.3457', '0.0001', 'nan')
    """
    return f"{value:.4g}"


def grouped(count: float) -> str:
    """A whole number with its thousands apart.

    >>> grouped(9231114)
    '9,231,114'
    """
    return f"{count:,.0f}"


def times(number: int) -> str:
    """How often.

    >>> times(1), times(3)
    ('once', '3 times')
    """
    return "once" if number == 1 else f"{number} times"


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(8.25), duration(590), duration(7325)
    ('8.2 s', '9 min 50 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def settings(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as rows of a table: dotted name and value as text.

    >>> list(settings({"optimizer": {"name": "sgd", "nesterov": True}, "clip": None}))
    [('optimizer.name', 'sgd'), ('optimizer.nesterov', 'yes'), ('clip', 'none')]
    """
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _setting(value)


def printable(text: str) -> str:
    r"""Text that any file can hold: control characters and undecodable bytes become U+FFFD.

    Class and file names come from folders, which may be called anything.

    >>> printable("bell\x07 猫")
    'bell� 猫'
    """
    return "".join("�" if category(letter) in UNPRINTABLE and letter not in "\n\t" else letter for letter in text)


def _setting(value: Any) -> str:
    match value:
        case None | [] | ():
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return (" · " if isinstance(value[0], Mapping) else ", ").join(map(_setting, value))
        case Mapping():
            return " ".join(
                _setting(part) if name == "kind" else f"{name}={_setting(part)}" for name, part in value.items()
            )
        case _:
            return str(value)
