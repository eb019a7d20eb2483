"""What a map must do to be believed: depend on the weights, name pixels that matter, add up.

Source: Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv 1810.03292, for the first.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convatlas.errors import ExplanationError, UnknownNameError
from convatlas.explanation import METHOD_NAMES, explain_image
from convatlas.explanation.curves import area, deletion_curve, insertion_curve
from convatlas.explanation.gradients import guided_gradients, integrated_gradients
from convatlas.explanation.maps import enlarged
from convatlas.explanation.occlusion import occlusion
from convatlas.models import create_model, outline_model

IMAGES = 40


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of two maps."""
    ranks = torch.stack([each.flatten().argsort().argsort().float() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_map_is_between_0_and_1_at_the_size_of_the_input(digits, method) -> None:
    found = explain_image(digits.model, digits.images[0], method)
    assert found.map.shape == digits.images[0].shape[1:]
    assert found.map.min() >= 0
    assert found.map.max() == 1
    assert found.label == digits.labels[0]
    assert (found.layer == "s4") is method.startswith("gradcam")
    with torch.no_grad():
        torch.testing.assert_close(found.logits, digits.model(digits.images[:1])[0])


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "integrated-gradients", "occlusion"])
def test_random_weights_give_another_map(digits, method) -> None:
    correlations = []
    for seed, (image, label) in enumerate(zip(digits.images[:IMAGES], digits.labels.tolist(), strict=False)):
        fresh = create_model("lenet5", image_size=digits.model.image_size, seed=seed)
        maps = [explain_image(model, image, method, label).map for model in (digits.model, fresh)]
        correlations.append(abs(rank_correlation(*maps)))
    assert sum(correlations) / IMAGES < 0.5


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_pixels_that_a_map_names_matter_more_than_any(digits, method) -> None:
    """Beside random maps of the same coarseness.

    Pixels that are scattered at random show a whole digit, of fewer dots: no map of 5x5 places could compete, right or
    wrong.
    """
    generator = torch.Generator().manual_seed(0)
    gone, come = [], []
    for image, label in zip(digits.images[:IMAGES], digits.labels.tolist(), strict=False):
        found = explain_image(digits.model, image, method, label)
        coarse = image.shape[-1] if found.feature_maps is None else found.feature_maps.shape[-1]
        maps = found.map, enlarged(torch.rand(coarse, coarse, generator=generator), image.shape[-1])
        gone.append([area(deletion_curve(digits.model, image, each, label)) for each in maps])
        come.append([area(insertion_curve(digits.model, image, each, label)) for each in maps])
    (deleted, deleted_anyhow), (inserted, inserted_anyhow) = (torch.tensor(each).mean(dim=0) for each in (gone, come))
    assert deleted < deleted_anyhow - 0.1
    assert inserted > inserted_anyhow + 0.03


def test_curves_begin_or_end_with_the_whole_image(digits) -> None:
    image, label = digits.images[0], int(digits.labels[0])
    with torch.no_grad():
        probability = digits.model(image[None]).softmax(dim=1)[0, label]
        plain = digits.model(image.mean().expand(1, 1, 28, 28)).softmax(dim=1)[0, label]
    deleted = deletion_curve(digits.model, image, image[0], label, steps=7)
    inserted = insertion_curve(digits.model, image, image[0], label, steps=7)
    assert deleted.shape == inserted.shape == (8,)
    torch.testing.assert_close(deleted[0], probability)
    torch.testing.assert_close(deleted[-1], plain)
    torch.testing.assert_close(inserted[-1], probability)


def test_integrated_gradients_add_up(digits) -> None:
    baseline = digits.images.mean(dim=0)
    for image in digits.images[:8]:
        for start in (None, baseline):
            found = integrated_gradients(digits.model, image, baseline=start, steps=200)
            begin = torch.zeros_like(image) if start is None else start
            with torch.no_grad():
                gained = found.logits[found.label] - digits.model(begin[None])[0, found.label]
            torch.testing.assert_close(found.values.sum(), gained, rtol=0.02, atol=0.05)


def test_a_plain_picture_loses_nothing_when_it_is_covered(digits) -> None:
    for level in (-0.7, 0.3, 1.9):
        plain = torch.full((1, 28, 28), level)
        assert occlusion(digits.model, plain).values.unique().tolist() == [0.0]
        assert explain_image(digits.model, plain, "occlusion").map.unique().tolist() == [0.0]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_nothing_of_the_network_changes(digits, method) -> None:
    model = copy.deepcopy(digits.model).train()
    model.features.eval()
    modes = [layer.training for layer in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = digits.images[0].clone()
    found = explain_image(model, image, method)
    assert [layer.training for layer in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())
    assert torch.equal(image, digits.images[0])
    assert torch.is_grad_enabled()
    assert not found.map.requires_grad
    assert not found.logits.requires_grad
    with torch.no_grad():  # a caller's own must not get in the way
        assert torch.equal(explain_image(model, image, method).map, found.map)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_grad_cam_takes_one_forward_pass(digits, method) -> None:
    passes = []
    handles = [
        layer.register_forward_hook(lambda layer, _inputs, _output: passes.append(layer))
        for layer in digits.model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    explain_image(digits.model, digits.images[0], method)
    for handle in handles:
        handle.remove()
    assert len(passes) == len(handles)


def test_hooks_are_gone_after_a_mistake(digits) -> None:
    with pytest.raises(ExplanationError, match="numbered from 0 to 9; received 10"):
        explain_image(digits.model, digits.images[0], "gradcam", label=10)
    with pytest.raises(ExplanationError, match="numbered from 0 to 9; received -1"):
        guided_gradients(digits.model, digits.images[0], label=-1)
    assert not any(layer._forward_hooks for layer in digits.model.modules())


def test_mistakes_are_told(digits) -> None:
    image = digits.images[0]
    with pytest.raises(UnknownNameError, match="no method named 'gradcan'; did you mean gradcam"):
        explain_image(digits.model, image, "gradcan")
    with pytest.raises(ExplanationError, match="occlusion looks at no layer: leave s4 out"):
        explain_image(digits.model, image, "occlusion", layer="s4")
    with pytest.raises(ExplanationError, match="one image is explained at a time"):
        explain_image(digits.model, digits.images[:2])
    with pytest.raises(ExplanationError, match="the window is 1 to 28 pixels; received 29"):
        occlusion(digits.model, image, window=29)
    with pytest.raises(ExplanationError, match="1 step or more; received 0"):
        integrated_gradients(digits.model, image, steps=0)
    with pytest.raises(ExplanationError, match="1 step or more; received 0"):
        deletion_curve(digits.model, image, image[0], 0, steps=0)
    with pytest.raises(ExplanationError, match=r"a map of \(28, 28\) is needed"):
        deletion_curve(digits.model, image, image, 0)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_in_training_mode_is_evaluated(name: str) -> None:
    """Else it would return the logits of its auxiliary heads beside its own."""
    from convatlas.explanation.class_activation import layer_gradients

    model = outline_model(name).train()
    seen = layer_gradients(model, torch.zeros(3, model.image_size, model.image_size, device="meta"), label=0)
    assert seen.logits.shape == (model.num_classes,)
    assert model.training
