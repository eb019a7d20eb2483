"""What may be said of an autoencoder beside the size of its input: settings by name, each with what it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from convatlas.errors import ConvatlasError, shortened, unknown_name

#: A choice by name, or a number.
Setting = str | float


class Rule(Protocol):
    """What a setting may be."""

    def checked(self, model: str, name: str, received: Any) -> Setting:
        """The setting, if it may be that.

        Raises:
            ConvatlasError: it may not; says what it may be.
        """


@dataclass(frozen=True)
class Choice:
    """A setting that is one of some names."""

    names: tuple[str, ...]

    def checked(self, model: str, name: str, received: Any) -> Setting:
        """The setting, if it is one of the names."""
        if not isinstance(received, str):
            raise ConvatlasError(
                f"{model}: {name} is one of {', '.join(self.names)}; received {shortened(repr(received))}"
            )
        if received not in self.names:
            raise unknown_name(name, received, self.names)
        return received


@dataclass(frozen=True)
class Amount:
    """A setting that is a number, bounds included."""

    least: float
    most: float

    def checked(self, model: str, name: str, received: Any) -> Setting:
        """The setting as a float, if it is within its bounds."""
        if _is_number(received) and self.least <= received <= self.most:
            return float(received)
        bounds = f"from {self.least:g} to {self.most:g}"
        raise ConvatlasError(f"{model}: {name} is a number {bounds}; received {shortened(repr(received))}")


@dataclass(frozen=True)
class Whole:
    """A setting that is a whole number, bounds included."""

    least: int
    most: int

    def checked(self, model: str, name: str, received: Any) -> Setting:
        """The setting as an int, if it is within its bounds."""
        if _is_number(received) and self.least <= received <= self.most and received == int(received):
            return int(received)
        bounds = f"from {self.least:,} to {self.most:,}"
        raise ConvatlasError(f"{model}: {name} is a whole number {bounds}; received {shortened(repr(received))}")


def checked(model: str, settings: Mapping[str, Setting], rules: Mapping[str, Rule]) -> dict[str, Setting]:
    """The settings of a network, each held against its rule.

    >>> checked("autoencoder_dense_latent", {"code": 32.0}, {"code": Whole(1, 64)})
    {'code': 32}

    Raises:
        ConvatlasError: a setting that may not be so.
    """
    return {name: rules[name].checked(model, name, value) for name, value in settings.items()}


def _is_number(received: Any) -> bool:
    return isinstance(received, int | float) and not isinstance(received, bool)
