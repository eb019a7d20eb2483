"""Which registered networks the fast suite takes: the smallest of each form. The slow suite takes the others too.

Networks of one form differ in numbers alone, of layers or of channels: ResNet-20 and ResNet-1202 are made of the same
blocks, and VGG-16 has no layer that VGG-11 has not. A form is what a variant's row says beside its numbers.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import pytest

from convatlas.models import list_models, model_entry
from convatlas.models.counts import shipped_counts

PARAMETERS = {name: counts["parameters"] for name, counts in shipped_counts().items()}
LARGE = {name for name, parameters in PARAMETERS.items() if parameters > 30e6}  # whose numbers take seconds a test


def form(value: Any) -> Hashable:
    """What a value says of a network's layers, and not how many or how large they are.

    Of a number that is whether it is 0, 1 or more: a stride or none, dropout or none. Equal parts count once.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(form(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, partial):
        return value.func, form(value.args), form(value.keywords)
    if isinstance(value, Mapping):
        return frozenset((key, form(part)) for key, part in value.items())
    if isinstance(value, tuple | list):
        return frozenset(map(form, value))
    if isinstance(value, int | float):
        return value if value in (0, 1) else "more"
    return value


def smallest_of_each(kind: Any) -> Iterator[str]:
    """The network with the fewest parameters of each kind, by a function of its name."""
    kinds: dict[Hashable, list[str]] = {}
    for name in list_models():
        kinds.setdefault(kind(name), []).append(name)
    return (min(names, key=PARAMETERS.__getitem__) for names in kinds.values())


def with_the_others_slow(names: Iterable[str], fast: Container[str]) -> list[Any]:
    """Parameters of a test: these networks, those marked slow that are not in ``fast``."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


ONE_OF_EACH_FORM = {*smallest_of_each(lambda name: (model_entry(name).family, form(model_entry(name).build)))}
SMALLEST_OF_EACH_FAMILY = {*smallest_of_each(lambda name: model_entry(name).family)}

every_network = pytest.mark.parametrize("name", with_the_others_slow(list_models(), ONE_OF_EACH_FORM))
