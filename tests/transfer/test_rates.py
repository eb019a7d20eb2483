"""Which layers learn and how fast; what is frozen stays as it was, to the bit."""

from __future__ import annotations

import pytest
import torch

from convatlas.acceleration import EngineCard
from convatlas.data.batch import Batch
from convatlas.errors import RecipeError, UnknownNameError
from convatlas.models import create_model, outline_model
from convatlas.tasks.classify.task import Classification
from convatlas.training.layer_rates import LayerRates
from convatlas.training.learner import Learner
from convatlas.training.recipe import ClassificationRecipe, default_recipe
from convatlas.transfer.rates import layer_rates

MODEL = create_model("resnet20", num_classes=3, seed=0)


def recipe(**changes: object) -> ClassificationRecipe:
    return default_recipe("resnet-cifar", mirror=True).updated(**changes)


def test_the_head_learns_faster_and_the_first_layer_slower() -> None:
    rates = layer_rates(MODEL, recipe(head_rate=20.0, layer_rates=0.25))
    assert rates.factor("fc.weight") == rates.factor("fc.bias") == 20
    assert rates.factor("conv1.weight") == pytest.approx(0.25)
    factors = [rates.factor(f"layer{stage}.0.conv1.weight") for stage in (1, 2, 3)]
    assert factors == sorted(factors)
    assert rates.factor("layer3.2.bn2.bias") == 1


def test_until_freezes_what_comes_before() -> None:
    frozen = layer_rates(MODEL, recipe(freeze="until:conv1")).frozen
    assert frozen == ("conv1", "bn1")
    assert layer_rates(outline_model("vgg16_bn"), recipe(freeze="until:conv4")).frozen[-2:] == (
        "features.30",
        "features.31",
    )
    everything = layer_rates(MODEL, recipe(freeze="features")).frozen
    assert "fc" not in everything
    assert "layer3.2.conv2" in everything


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(UnknownNameError, match="there is no layer named 'conv99'"):
        layer_rates(MODEL, recipe(freeze="until:conv99"))
    with pytest.raises(RecipeError, match="freeze is none, features or until:TAP"):
        recipe(freeze="everything")


def trained(rates: LayerRates, steps: int = 3) -> dict[str, torch.Tensor]:
    model = create_model("resnet20", num_classes=3, seed=0)
    learner = Learner(model, Classification(("a", "b", "c")), recipe(), EngineCard(), (8, 3, 32, 32), rates)
    chance = torch.Generator().manual_seed(0)
    for step in range(steps):
        learner.begin_epoch()
        batch = Batch(torch.randn(8, 3, 32, 32, generator=chance), torch.randint(0, 3, (8,), generator=chance), 8)
        learner.step(batch, 0.1, 0, step)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_frozen_layers_keep_every_bit_their_statistics_too(cpu_only: None) -> None:
    before = create_model("resnet20", num_classes=3, seed=0).state_dict()
    after = trained(layer_rates(MODEL, recipe(freeze="features")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_frozen_batch_norm_keeps_its_statistics_and_learns(cpu_only: None) -> None:
    before = create_model("resnet20", num_classes=3, seed=0).state_dict()
    after = trained(LayerRates(freeze_batch_norm=True))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert "bn1.weight" in changed


def test_a_factor_is_a_rate(cpu_only: None) -> None:
    """One step of plain SGD moves a weight by the factor times as much."""
    before = create_model("resnet20", num_classes=3, seed=0).state_dict()
    once, thrice = (trained(LayerRates({"fc.weight": factor}), steps=1)["fc.weight"] for factor in (1.0, 3.0))
    assert torch.allclose(thrice - before["fc.weight"], 3 * (once - before["fc.weight"]), atol=1e-5)
