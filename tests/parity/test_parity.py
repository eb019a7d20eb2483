"""Networks compute what the same networks of torchvision, timm and Keras compute, and have the same gradients.

``cases.py`` is the table of comparisons; ``docs/reference/parity.md`` is what they came to, written by ``report.py``.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convatlas.models import outline_model
from parity.cases import CASES, Case
from parity.compare import TOLERANCE, measure
from parity.libraries import torchvision_module
from parity.report import PAGE

STRICT = [case for case in CASES if case.library == "torchvision"]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id, marks=pytest.mark.slow if case.slow else ()) for case in CASES]
)
def test_same_logits_and_gradients(case: Case) -> None:
    if find_spec(case.library) is None:
        pytest.skip(f"{case.library} is not installed: pip install {case.library}")
    differences = measure(case)
    assert differences.evaluation <= TOLERANCE
    assert differences.training <= TOLERANCE
    assert differences.gradients <= TOLERANCE


@pytest.mark.parametrize("case", STRICT, ids=[case.model for case in STRICT])
def test_torchvision_keys_and_shapes_are_the_same_in_the_same_order(case: Case) -> None:
    theirs, ours = torchvision_module(case.their_name).state_dict(), outline_model(case.model).state_dict()
    assert [(key, tensor.shape) for key, tensor in ours.items()] == [(k, t.shape) for k, t in theirs.items()]


@pytest.mark.parametrize("case", STRICT, ids=[case.model for case in STRICT])
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
