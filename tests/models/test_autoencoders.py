"""Every registered autoencoder answers the contract, and its penalties are what the papers say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from convatlas.errors import ConvatlasError, UnknownNameError
from convatlas.models import (
    Autoencoder,
    ReconstructionOutput,
    autoencoder_entry,
    create_autoencoder,
    create_model,
    describe_autoencoders,
    describe_models,
    find_entry,
    list_models,
    model_entry,
    outline_autoencoder,
)
from convatlas.models.autoencoders import ACTIVATIONS, VARIANTS, hidden_layers, squared_jacobian
from convatlas.models.contract import blank_input
from convatlas.models.counts import count, shipped_counts
from convatlas.models.registry import register_autoencoder
from convatlas.training.recipe import ReconstructionRecipe, load_recipe

NAMES = list_models(task="reconstruct")
ROWS, COLUMNS = 5, 7

every_autoencoder = pytest.mark.parametrize("name", NAMES)


def rows(columns: int = COLUMNS, number: int = ROWS) -> torch.Tensor:
    return torch.randn(number, columns, generator=torch.Generator().manual_seed(0))


def in_training(model: Autoencoder, batch: torch.Tensor) -> ReconstructionOutput:
    output = model.train()(batch)
    assert isinstance(output, ReconstructionOutput)
    return output


def test_the_source_s_parameters_are_ours() -> None:
    counts = shipped_counts()
    assert counts["autoencoder_plain"]["parameters"] == counts["autoencoder_contractive"]["parameters"] == 2_389
    assert counts["autoencoder_deep"]["parameters"] == counts["autoencoder_sparse"]["parameters"] == 11_269
    assert [VARIANTS[name].hidden for name in ("autoencoder_plain", "autoencoder_deep")] == [(40,), (80, 40, 80)]


@pytest.mark.parametrize(
    ("recipe", "rate", "epochs", "share"),
    [
        ("autoencoder-plain", 1e-4, 30, 1),
        ("autoencoder-deep", 5e-5, 50, 1),
        ("autoencoder-deep-5-percent", 8e-4, 30, 0.05),
        ("autoencoder-sparse", 8e-4, 30, 0.05),
        ("autoencoder-contractive", 3e-4, 30, 1),
    ],
)
def test_the_source_s_recipes_are_ours(recipe: str, rate: float, epochs: int, share: float) -> None:
    found = load_recipe(recipe)
    assert isinstance(found, ReconstructionRecipe)
    assert (found.optimizer, found.batch_size, found.weight_decay) == ("adam", 64, 0)
    assert (found.learning_rate, found.epochs, found.fit_fraction) == (rate, epochs, share)


@every_autoencoder
def test_an_entry_is_true_of_the_network(name: str) -> None:
    entry, model = autoencoder_entry(name), outline_autoencoder(name)
    assert find_entry(name) is entry
    assert (model.columns, dict(model.settings)) == (entry.columns, dict(entry.settings))
    assert isinstance(load_recipe(entry.recipe), ReconstructionRecipe)
    assert count(model) == shipped_counts()[name]
    (description,) = [each for each in describe_autoencoders() if each["name"] == name]
    assert description["parameters"] == sum(weights.numel() for weights in model.parameters())
    for key in ("family", "year", "paper", "columns", "recipe"):
        assert description[key] == getattr(entry, key)


@every_autoencoder
def test_evaluating_gives_rows_and_taps_as_they_are_told(name: str) -> None:
    model = outline_autoencoder(name, columns=COLUMNS).eval()
    seen: dict[str, tuple[int, ...]] = {}

    def watch(module: nn.Module, what: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({what: tuple(output.shape[1:])}))

    for tap, place in model.taps.items():
        watch(model.get_submodule(place.module), tap)
    watch(model.get_submodule(model.output_name), "rebuilt")
    assert model(blank_input(model)).shape == (1, COLUMNS)
    assert list(seen) == [*model.taps, "rebuilt"]  # in the order they run in
    assert seen == {tap: place.shape for tap, place in model.taps.items()} | {"rebuilt": (COLUMNS,)}


@every_autoencoder
def test_evaluating_is_encoding_and_decoding_and_leaves_nothing_to_chance(name: str) -> None:
    model, batch = create_autoencoder(name, columns=COLUMNS, seed=0).eval(), rows()
    rebuilt = model(batch)
    assert isinstance(rebuilt, torch.Tensor)
    assert torch.equal(rebuilt, model.decode(model.encode(batch)))
    assert torch.equal(rebuilt, model(batch))
    assert model.encode(batch).shape == (ROWS, *model.taps["code"].shape)


@every_autoencoder
@pytest.mark.parametrize("columns", [1, COLUMNS, 300])
def test_a_gradient_reaches_every_parameter(name: str, columns: int) -> None:
    model, batch = create_autoencoder(name, columns=columns, seed=0), rows(columns, number=64)
    rebuilt, penalty = in_training(model, batch)
    assert rebuilt.shape == batch.shape
    assert penalty.shape == ()
    torch.autograd.backward([(rebuilt - batch).square().sum() + penalty])
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_autoencoder
def test_weights_start_as_keras_has_them(name: str) -> None:
    torch.use_deterministic_algorithms(True)  # torch then fills new memory with NaN
    try:
        model = create_autoencoder(name, columns=COLUMNS, seed=0)
    finally:
        torch.use_deterministic_algorithms(False)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert bound / 2 < layer.weight.abs().max() <= bound
            assert not layer.bias.any()


@every_autoencoder
def test_the_same_seed_gives_the_same_weights_and_the_same_training(name: str) -> None:
    state = torch.get_rng_state()
    one, other = (create_autoencoder(name, columns=COLUMNS, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    outputs = []
    for model in (one, other):
        torch.manual_seed(1)
        outputs.append(in_training(model, rows()))
    assert torch.equal(outputs[0].rebuilt, outputs[1].rebuilt)
    assert torch.equal(outputs[0].penalty, outputs[1].penalty)
    different = create_autoencoder(name, columns=COLUMNS, seed=4)
    assert not torch.equal(next(one.parameters()), next(different.parameters()))


@every_autoencoder
def test_state_dict_goes_round_strictly(name: str) -> None:
    model, copy = create_autoencoder(name, seed=0).eval(), outline_autoencoder(name)
    copy.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert torch.equal(copy.eval()(rows(29)), model(rows(29)))


@pytest.mark.parametrize("name", [name for name in NAMES if not VARIANTS[name].settings])
def test_without_a_price_nothing_is_added_and_training_is_evaluating(name: str) -> None:
    model = create_autoencoder(name, columns=COLUMNS, seed=0)
    rebuilt, penalty = in_training(model, rows())
    assert penalty.item() == 0
    assert torch.equal(rebuilt, model.eval()(rows()))


def test_sparsity_is_the_price_of_every_answer_of_the_encoder() -> None:
    model, batch = create_autoencoder("autoencoder_sparse", columns=COLUMNS, sparsity=0.5, seed=0), rows()
    answers = []
    for name in ("encoder1", "code"):
        model.get_submodule(model.taps[name].module).register_forward_hook(
            lambda _module, _inputs, output: answers.append(output.detach())
        )
    _, penalty = in_training(model, batch)
    torch.testing.assert_close(penalty.detach(), 0.5 * sum(answer.abs().sum() for answer in answers))
    assert penalty > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", ["autoencoder_contractive", "autoencoder_deep"])
def test_the_jacobian_is_autograd_s_whatever_the_activation(activation: str, variant: str) -> None:
    model = create_autoencoder(variant, columns=COLUMNS, activation=activation, seed=0).double()
    assert isinstance(model.encoder, nn.Sequential)
    batch = rows().double()
    found = squared_jacobian(list(hidden_layers(model.encoder, batch)), ACTIVATIONS[activation].slope)
    per_row = torch.func.vmap(torch.func.jacrev(model.encode))(batch)
    torch.testing.assert_close(found, per_row.square().sum(dim=(1, 2)))


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_contraction_s_gradient_reaches_the_weights_as_autograd_has_it(activation: str) -> None:
    """The frozen copy of the weights, which has none, is the source's mistake."""
    made = create_autoencoder(
        "autoencoder_contractive", columns=COLUMNS, contraction=0.1, activation=activation, seed=0
    )
    model, batch = made.double(), rows().double()
    _, penalty = in_training(model, batch)
    per_row = torch.func.vmap(torch.func.jacrev(model.encode))(batch)
    expected = 0.1 * per_row.square().sum()
    torch.testing.assert_close(penalty, expected)
    weights = [model.get_parameter("encoder.dense1.weight")]
    (found,), (reference,) = torch.autograd.grad(penalty, weights), torch.autograd.grad(expected, weights)
    torch.testing.assert_close(found, reference)
    assert found.any()


def test_penalties_add_up_over_rows() -> None:
    """So that the batches of several processes, or a batch in parts, come to the same."""
    for name in ("autoencoder_sparse", "autoencoder_contractive"):
        model, batch = create_autoencoder(name, columns=COLUMNS, seed=0), rows()
        parts = [in_training(model, part).penalty for part in (batch[:2], batch[2:])]
        torch.testing.assert_close(in_training(model, batch).penalty, parts[0] + parts[1])


def test_a_price_is_reckoned_in_float32_when_training_is_in_half() -> None:
    for name in ("autoencoder_sparse", "autoencoder_contractive"):
        model = create_autoencoder(name, columns=COLUMNS, seed=0)
        with torch.autocast("cpu", torch.bfloat16):
            _, penalty = in_training(model, rows())
        assert penalty.dtype == torch.float32


def shown(model: Autoencoder, batch: torch.Tensor) -> torch.Tensor:
    """What the first layer is shown of a batch in training."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule("encoder.dense1").register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0])
    )
    in_training(model, batch)
    handle.remove()
    return seen[0]


def test_zeros_take_the_place_of_a_share_of_the_values() -> None:
    torch.manual_seed(0)
    batch = rows(number=4_000)
    corrupted = shown(create_autoencoder("autoencoder_denoising", columns=COLUMNS, corruption_rate=0.4), batch)
    gone = corrupted != batch
    assert not corrupted[gone].any()
    assert gone.double().mean().item() == pytest.approx(0.4, abs=0.02)


def test_noise_is_added_to_a_share_of_the_values() -> None:
    torch.manual_seed(0)
    batch = rows(number=4_000)
    made = create_autoencoder(
        "autoencoder_denoising", columns=COLUMNS, corruption="gaussian", corruption_rate=0.5, corruption_scale=2
    )
    noise = shown(made, batch) - batch
    assert (noise != 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise[noise != 0].std().item() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("kind", ["zeros", "gaussian"])
def test_nothing_is_destroyed_at_a_rate_of_none(kind: str) -> None:
    made = create_autoencoder("autoencoder_denoising", columns=COLUMNS, corruption=kind, corruption_rate=0, seed=0)
    assert torch.equal(shown(made, rows()), rows())


def test_a_destroyed_row_is_measured_against_the_whole_one_by_whoever_trains() -> None:
    """What comes back is the rebuilt row alone; targets are the caller's."""
    torch.manual_seed(0)
    model = create_autoencoder("autoencoder_denoising", columns=COLUMNS, corruption_rate=1, seed=0)
    rebuilt, penalty = in_training(model, rows())
    assert torch.equal(rebuilt, model.eval()(torch.zeros(ROWS, COLUMNS)))
    assert penalty.item() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_autoencoder("autoencoder_dep"), "no autoencoder named 'autoencoder_dep'; did you mean"),
        (lambda: create_autoencoder("vgg16"), "vgg16 is a classifier of images"),
        (lambda: create_model("autoencoder_deep"), "autoencoder_deep is an autoencoder of rows"),
        (lambda: find_entry("autoencoder_dep"), "no model named 'autoencoder_dep'; did you mean autoencoder_deep"),
        (lambda: create_autoencoder("autoencoder_plain", columns=0), "needs columns of at least 1; received 0"),
        (lambda: create_autoencoder("autoencoder_plain", columns=10**9), "at most 1,000,000 columns"),
        (
            lambda: create_autoencoder("autoencoder_sparse", sparsty=1),
            "no setting of autoencoder_sparse named 'sparsty'; did you mean sparsity",
        ),
        (
            lambda: create_autoencoder("autoencoder_plain", sparsity=1e-5),
            "no setting of autoencoder_plain named 'spars",
        ),
        (
            lambda: create_autoencoder("autoencoder_plain", activation="rely"),
            "no activation named 'rely'; did you mean",
        ),
        (
            lambda: create_autoencoder("autoencoder_plain", activation=1),
            "activation is one of relu, elu, tanh, sigmoid",
        ),
        (
            lambda: create_autoencoder("autoencoder_denoising", corruption_rate=1.5),
            "autoencoder_denoising: corruption_rate is a number from 0 to 1; received 1.5",
        ),
        (lambda: create_autoencoder("autoencoder_sparse", sparsity=-1), "sparsity is a number from 0 to 100"),
        (lambda: create_autoencoder("autoencoder_sparse", sparsity=math.nan), "from 0 to 100; received nan"),
        (lambda: create_autoencoder("autoencoder_sparse", sparsity=True), "from 0 to 100; received True"),
        (lambda: create_autoencoder("autoencoder_sparse", sparsity="much"), "from 0 to 100; received 'much'"),
        (lambda: list_models(task="rebuild"), "no task named 'rebuild'"),  # type: ignore[arg-type]
    ],
)
def test_a_mistake_is_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConvatlasError, match=r"^[^\n]*$") as caught:
        make()
    assert message in str(caught.value)


def test_autoencoders_are_listed_where_they_are_meant() -> None:
    assert not set(NAMES) & set(list_models())
    assert list_models(task=None) == [*list_models(), *NAMES, *list_models(task="reconstruct_images")]
    assert list_models("autoencoder") == NAMES == list(VARIANTS)
    assert not set(NAMES) & {each["name"] for each in describe_models()}
    assert [each["name"] for each in describe_autoencoders("autoencoder")] == NAMES
    assert describe_autoencoders("vgg") == []
    assert describe_models("autoencoder") == []
    with pytest.raises(UnknownNameError, match="is an autoencoder of rows"):
        model_entry("autoencoder_plain")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two models are named 'autoencoder_plain'"):
        register_autoencoder(autoencoder_entry("autoencoder_plain"))
