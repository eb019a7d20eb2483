"""Who runs a network: the rules, and that a training keeps to what was settled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.acceleration import EngineCard, as_recorded, settle
from convatlas.errors import UnknownNameError
from convatlas.tasks.classify.task import Classification
from convatlas.training.learner import Learner, needs_torch
from convatlas.training.recipe import ClassificationRecipe
from stand_in_engine import StandIn

RECIPE = ClassificationRecipe(epochs=1, learning_rate=0.1)
TASK = Classification(("a", "b"))
SHAPE = (4, 1, 8, 8)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn().install(monkeypatch)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2))


def test_the_engine_runs_what_it_can_and_its_choices_are_on_the_card(engine: StandIn) -> None:
    acceleration = settle(network(), SHAPE)
    assert acceleration.module is engine.made[0]
    assert acceleration.card == EngineCard(name="convatlas", choices={"3x3 measured 0": "winograd"})
    assert engine.examples == [SHAPE]
    assert str(acceleration) == "convatlas (layers: 1 winograd)"
    assert acceleration.explained().splitlines()[1:] == [
        "layer                 shape           kernel    milliseconds",
        "layer 3x3 measured 0  3x3 measured 0  winograd  winograd 1.5",
    ]


def test_torch_that_is_asked_for_needs_no_reason(engine: StandIn) -> None:
    model = network()
    acceleration = settle(model, SHAPE, "torch", obstacle="never told")
    assert (acceleration.module, acceleration.card, engine.made) == (model, EngineCard(), [])
    assert str(acceleration) == acceleration.explained().removeprefix("engine  ") == "torch"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model, _: model.to("meta"), "the network is on meta"),
        (lambda model, _: model.double(), "the network is of float64"),
        (lambda _, engine: setattr(engine, "missing", "llvmlite is not installed"), "llvmlite is not installed"),
    ],
)
def test_what_the_engine_cannot_run_is_left_to_torch_with_the_reason(
    change: object, reason: str, engine: StandIn
) -> None:
    model = network()
    change(model, engine)
    acceleration = settle(model, SHAPE)
    assert (acceleration.module, acceleration.card, acceleration.why_torch) == (model, EngineCard(), reason)
    assert str(acceleration) == f"torch ({reason})"


def test_a_network_that_pytorch_runs_faster_is_left_to_it_with_the_reason(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "PyTorch runs this network faster on this machine: 1 ms, the engine 2"
    monkeypatch.setattr("stand_in_engine.Accelerated.why_not", reason)
    model = network()
    acceleration = settle(model, SHAPE)
    assert (acceleration.module, acceleration.card, acceleration.why_torch) == (model, EngineCard(), reason)
    assert acceleration.explained() == f"engine  torch ({reason})"


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no engine named 'torche'; did you mean torch"):
        settle(network(), SHAPE, "torche")  # type: ignore[arg-type]


def test_a_card_is_kept_to_with_nothing_measured(engine: StandIn) -> None:
    model = network()
    assert as_recorded(EngineCard(), model, SHAPE) is model
    for choices in ({"3x3": "direct"}, {}):
        module = as_recorded(EngineCard(name="convatlas", choices=choices), model, SHAPE)
        assert module is engine.made[-1]
        assert engine.given[-1] == choices


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"precision": "float32"}, None),
        ({"compile": True}, "torch.compile"),
        ({"precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_recipes_that_are_for_torch_alone(
    changes: dict[str, object], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    received = needs_torch(RECIPE.updated(**changes))
    assert received is None if reason is None else reason in str(received)


def test_what_is_trained_judged_and_kept(engine: StandIn) -> None:
    card = EngineCard(name="convatlas", choices={"3x3": "direct"})
    plain = Learner(network(), TASK, RECIPE, card, SHAPE)
    assert plain.model is plain.judging_model is engine.made[0]
    assert plain.judged_model is plain.bare_model is engine.made[0].model
    averaged = Learner(network(), TASK, RECIPE.updated(ema_decay=0.9), card, SHAPE)
    assert averaged.model is engine.made[1]
    assert averaged.judging_model is engine.made[2]
    assert averaged.judged_model is engine.made[2].model
    assert engine.given == [card.choices] * 3
    assert set(averaged.judged_model.state_dict()) == set(network().state_dict())


def test_without_the_engine_a_network_is_run_as_it_is(engine: StandIn) -> None:
    learner = Learner(network(), TASK, RECIPE, EngineCard(), SHAPE)
    assert learner.model is learner.judging_model is learner.judged_model is learner.bare_model
    assert not engine.made
