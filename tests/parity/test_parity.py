"""Networks compute what the same networks of torchvision, timm and Keras compute, and have the same gradients.

``cases.py`` is the table of comparisons; ``docs/reference/parity.md`` is what they came to, written by ``report.py``.
The fast suite makes those of the smallest network of each family and of each library.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from importlib.util import find_spec

import pytest
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convatlas.models import model_entry, outline_model
from network_forms import LARGE, ONE_OF_EACH_FORM, PARAMETERS
from parity.cases import CASES, Case
from parity.compare import TOLERANCE, measure
from parity.libraries import torchvision_module
from parity.report import PAGE


def smallest_of_each(kind: Callable[[Case], str]) -> set[Case]:
    kinds: dict[str, list[Case]] = {}
    for case in CASES:
        kinds.setdefault(kind(case), []).append(case)
    return {min(cases, key=lambda case: PARAMETERS[case.model]) for cases in kinds.values()}


SMALLEST = smallest_of_each(lambda case: model_entry(case.model).family) | smallest_of_each(lambda case: case.library)
STRICT = [case for case in CASES if case.library == "torchvision"]


def each_case(cases: Iterable[Case], fast: Container[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.id, marks=() if case in fast else pytest.mark.slow) for case in cases]
    )


@each_case(CASES, fast=[case for case in SMALLEST if case.model not in LARGE])
def test_same_logits_and_gradients(case: Case) -> None:
    if find_spec(case.library) is None:
        pytest.skip(f"{case.library} is not installed: pip install {case.library}")
    differences = measure(case)
    assert differences.evaluation <= TOLERANCE
    assert differences.training <= TOLERANCE
    assert differences.gradients <= TOLERANCE


@each_case(STRICT, fast=[case for case in STRICT if case.model in ONE_OF_EACH_FORM])
def test_torchvision_keys_and_shapes_are_the_same_in_the_same_order(case: Case) -> None:
    theirs, ours = torchvision_module(case.their_name).state_dict(), outline_model(case.model).state_dict()
    assert [(key, tensor.shape) for key, tensor in ours.items()] == [(k, t.shape) for k, t in theirs.items()]


@each_case(STRICT, fast=[case for case in STRICT if case.model in ONE_OF_EACH_FORM])
def test_torchvision_normalises_and_drops_out_alike(case: Case) -> None:
    assert habits(outline_model(case.model)) == habits(torchvision_module(case.their_name))


def habits(network: nn.Module) -> tuple[list[tuple[float, float | None]], list[float]]:
    """What no comparison of one batch's logits shows: how fast running statistics follow."""
    norms = [(layer.eps, layer.momentum) for layer in network.modules() if isinstance(layer, _BatchNorm)]
    return norms, sorted(layer.p for layer in network.modules() if isinstance(layer, nn.Dropout) and layer.p)


def test_the_page_names_every_comparison() -> None:
    table = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    rows = {(model.strip(" `"), library.split()[0], theirs.strip(" `")) for _, model, library, theirs, *_ in table}
    assert rows == {(case.model, case.library, case.their_name) for case in CASES}
    numbers = [float(number) for row in table for number in row[6:9]]
    assert len(numbers) == 3 * len(CASES)
    assert max(numbers) <= TOLERANCE
