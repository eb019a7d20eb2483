"""Whole training steps of dense networks are those that autograd and PyTorch's Adam take."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.acceleration import WHOLE_STEPS, EngineCard, settle_steps
from convatlas.engine.dense import DenseSteps, dense_layers, obstacle_to_steps
from convatlas.models import create_autoencoder
from convatlas.tasks.reconstruct.task import Reconstruction
from convatlas.training import checkpoint
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.learner import needs_autograd
from convatlas.training.recipe import ReconstructionRecipe

COLUMNS = 11
RECIPE = ReconstructionRecipe(epochs=1, learning_rate=1e-3, optimizer="adam")


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(1))


def torch_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = (network(batch) - batch).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh", "sigmoid"])
@pytest.mark.parametrize("name", ["autoencoder_plain", "autoencoder_deep"])
def test_steps_are_those_of_autograd_and_adam(name: str, activation: str) -> None:
    network = create_autoencoder(name, columns=COLUMNS, activation=activation, seed=0).eval()  # without the penalty
    twin = deepcopy(network)
    adam, twins = (torch.optim.Adam(each.parameters(), lr=1e-2) for each in (network, twin))
    steps = DenseSteps(network, adam)
    for size in (64, 64, 17, 64):
        batch = rows(size)
        assert float(steps.step(batch, 1e-2)) / size == pytest.approx(torch_step(twin, twins, batch), rel=1e-4)
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)  # Adam divides by roots of tiny squares
        assert adam.state[own]["step"] == twins.state[other]["step"] == 4
        for average in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(adam.state[own][average], twins.state[other][average], rtol=1e-3, atol=1e-6)


def test_a_first_step_is_that_of_double_precision() -> None:
    """Parity that no rounding excuses: the gradient of one step, from the average that Adam keeps of it."""
    network = create_autoencoder("autoencoder_deep", columns=COLUMNS, seed=0).eval()
    exact = deepcopy(network).double()
    batch = rows(64)
    (exact(batch.double()) - batch.double()).square().mean().backward()
    adam = torch.optim.Adam(network.parameters())
    DenseSteps(network, adam).step(batch, 1e-3)
    for own, other in zip(network.parameters(), exact.parameters(), strict=True):
        gradient = adam.state[own]["exp_avg"].double() / 0.1
        assert torch.linalg.vector_norm(gradient - other.grad) <= 1e-5 * torch.linalg.vector_norm(other.grad)


def test_what_autograd_began_is_gone_on_with() -> None:
    network = create_autoencoder("autoencoder_plain", columns=COLUMNS, seed=0).eval()
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    torch_step(network, adam, rows(64))
    twin = deepcopy(network)
    twins = torch.optim.Adam(twin.parameters(), lr=1e-3)
    twins.load_state_dict(adam.state_dict())
    DenseSteps(network, adam).step(rows(64), 1e-3)
    torch_step(twin, twins, rows(64))
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def hooked(network: nn.Sequential) -> nn.Sequential:
    network[0].register_forward_hook(lambda _module, _inputs, output: output * 2)
    return network


def frozen(network: nn.Sequential) -> nn.Sequential:
    network[0].weight.requires_grad_(False)
    return network


def normed(network: nn.Sequential) -> nn.Sequential:
    nn.utils.parametrizations.weight_norm(network[0])
    return network


def chain(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), *middle, nn.Linear(4, 5))


@pytest.mark.parametrize(
    "network",
    [
        chain(nn.Dropout(0.5)),
        chain(nn.ReLU(), nn.BatchNorm1d(4)),
        chain(nn.ELU(alpha=0.5)),
        chain(nn.LeakyReLU()),
        chain(),
        hooked(chain(nn.ReLU())),
        frozen(chain(nn.ReLU())),
        normed(chain(nn.ReLU())),
        chain(nn.ReLU()).double(),
        nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 5)),
        nn.Sequential(nn.Conv1d(1, 1, 3)),
    ],
    ids=["dropout", "batch norm", "elu", "leaky", "linear", "hook", "frozen", "weight norm", "double", "bias", "conv"],
)
def test_what_is_no_plain_chain_is_left_to_autograd(network: nn.Module) -> None:
    assert dense_layers(network) == ()
    assert obstacle_to_steps(network, (8, 5)) == "it is not a chain of dense layers"


def test_large_products_are_left_to_many_threads() -> None:
    network = create_autoencoder("autoencoder_wide", columns=29).train()
    assert obstacle_to_steps(network, (64, 29)) is None
    assert obstacle_to_steps(network, (4096, 29)) == ("a product of 22,568,960 multiplications gains from more threads")


@pytest.mark.parametrize("name", ["autoencoder_sparse", "autoencoder_denoising", "autoencoder_contractive"])
def test_networks_that_are_regularized_are_left_to_autograd(name: str) -> None:
    network = create_autoencoder(name).train()
    settled = settle_steps(network, (64, 29), obstacle=needs_autograd(network, RECIPE))
    assert settled.card == EngineCard()
    assert str(settled) == "torch (its training is more than what its layers compute)"


def test_a_price_of_nothing_is_no_price() -> None:
    network = create_autoencoder("autoencoder_sparse", sparsity=0.0).train()
    obstacle = needs_autograd(network, RECIPE)
    assert settle_steps(network, (64, 29), obstacle=obstacle).card == WHOLE_STEPS


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "sgd"}, "whole steps are of Adam"),
        ({"weight_decay": 1e-4}, "whole steps are of Adam"),
        ({"clip_norm": 1.0}, "clips gradients"),
        ({"ema_decay": 0.9}, "averages weights"),
        ({"compile": True}, "torch.compile"),
        ({"precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_recipes_that_only_autograd_can_follow(settings: dict[str, object], reason: str) -> None:
    recipe = RECIPE.updated(**settings)
    assert reason in (needs_autograd(create_autoencoder("autoencoder_plain"), recipe) or "")


def trained(folder: Path, engine: EngineCard, *epochs: int) -> Path:
    """A training to the last of some numbers of epochs, stopped at each of the others."""
    for number, until in enumerate(epochs):
        recipe = ReconstructionRecipe(epochs=until, batch_size=32, learning_rate=1e-3, optimizer="adam")
        network = create_autoencoder("autoencoder_plain", columns=COLUMNS, seed=0)
        feed = Feed.of_rows(rows(200), rows(50), recipe)
        fit(network, Reconstruction(1.0), feed, recipe, folder, engine=engine, resume=number > 0)
    return folder


def test_a_training_comes_to_what_autograd_comes_to(tmp_path: Path) -> None:
    own = checkpoint.load(trained(tmp_path / "own", WHOLE_STEPS, 4))
    other = checkpoint.load(trained(tmp_path / "torch", EngineCard(), 4))
    losses = [[row.validation["loss"] for row in state.history] for state, _, _ in (own, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for kind in (1, 2):  # weights, optimizer
        assert own[kind].keys() == other[kind].keys()
        for name, tensor in other[kind].items():
            torch.testing.assert_close(own[kind][name], tensor, rtol=1e-2, atol=1e-4)


def test_a_training_that_is_resumed_has_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    at_once, in_turns = trained(tmp_path / "a", WHOLE_STEPS, 5), trained(tmp_path / "b", WHOLE_STEPS, 2, 5)
    for name in ("model.safetensors", "last-00000035.safetensors", "optimizer-00000035.safetensors"):
        assert (at_once / name).read_bytes() == (in_turns / name).read_bytes(), name


def test_it_may_go_on_by_autograd(tmp_path: Path) -> None:
    trained(tmp_path, WHOLE_STEPS, 2)
    state, _, _ = checkpoint.load(trained(tmp_path, EngineCard(), 2, 4))
    assert len(state.history) == 4
