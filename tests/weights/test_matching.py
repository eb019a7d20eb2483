"""Which layer goes where: other libraries' names and orders, other heads, files of another network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convatlas.errors import WeightsError
from convatlas.models import create_model
from convatlas.weights import LoadReport, load_weights


def from_timm(name: str, path: Path) -> torch.nn.Module:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if buffer_name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
    save_file(model.state_dict(), path)
    return model.eval()


TIMM = [
    pytest.param("efficientnet_lite0", "tf_efficientnet_lite0", "by name", marks=pytest.mark.slow),
    ("mobilenet_v1", "mobilenetv1_100", "in the order of the layers"),
    pytest.param("seresnet50", "seresnet50", "by name", marks=pytest.mark.slow),
    pytest.param("preresnet50", "resnetv2_50", "in the order of the layers", marks=pytest.mark.slow),
    pytest.param("inception_v4", "inception_v4", "in the order of the layers", marks=pytest.mark.slow),
    pytest.param("inception_resnet_v2", "inception_resnet_v2", "in the order of the layers", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("ours", "theirs", "how"), TIMM)
def test_every_tensor_of_timm_is_found(ours: str, theirs: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "timm.safetensors"
    their_model = from_timm(theirs, path)
    model = create_model(ours, image_size=128, seed=0).eval()
    report = load_weights(model, path)
    assert (report.how, report.share, report.skipped) == (how, 1.0, ())
    if ours in ("mobilenet_v1", "preresnet50"):  # timm's have ReLU6 there, and pool elsewhere
        return
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), their_model(images))


@pytest.mark.parametrize("name", ["googlenet", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_torchvisions_files_load_by_name(name: str, tmp_path: Path) -> None:
    from parity.libraries import torchvision_module

    theirs = torchvision_module(name).to_empty(device="cpu")
    for tensor in (*theirs.parameters(), *theirs.buffers()):
        torch.nn.init.constant_(tensor.data, 0.5) if tensor.is_floating_point() else tensor.data.zero_()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    model = create_model(name, seed=0)
    report = load_weights(model, tmp_path / "theirs.pth")
    assert (report.how, report.share, report.skipped) == ("by name", 1.0, ())
    assert all((parameter == 0.5).all() for parameter in model.parameters())


def test_other_classes_leave_a_new_head(tmp_path: Path) -> None:
    torch.save(create_model("resnet20", num_classes=10, seed=0).state_dict(), tmp_path / "ten.pth")
    model = create_model("resnet20", num_classes=3, seed=1)
    before = model.get_submodule(model.output_names[-1]).weight.clone()
    report = load_weights(model, tmp_path / "ten.pth")
    assert report.share == 1
    assert [row.layer for row in report.layers if row.status == "new head"] == list(model.output_names)
    assert torch.equal(model.get_submodule(model.output_names[-1]).weight, before)
    assert "10x64, here 3x64" in "\n".join(report.lines())


@pytest.mark.parametrize("name", ["nin", "lenet5_1998"])
def test_a_new_head_of_another_kind_counts_for_nothing(name: str, tmp_path: Path) -> None:
    """A 1x1 convolution that every map goes through; distances to codes."""
    torch.save(create_model(name, num_classes=30, seed=0).state_dict(), tmp_path / "thirty.pth")
    report = load_weights(create_model(name, num_classes=3, seed=1), tmp_path / "thirty.pth")
    assert (report.share, report.features_share) == (1.0, 1.0)


@pytest.mark.slow
def test_a_plain_vgg_lends_its_convolutions_to_one_with_batch_norm(tmp_path: Path) -> None:
    plain = create_model("vgg11", image_size=32, seed=0)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = create_model("vgg11_bn", image_size=32, seed=1)
    report = load_weights(model, tmp_path / "plain.pth")
    assert report.how == "by the layers' names in the paper"
    assert torch.equal(model.get_submodule("features.4").weight, plain.get_submodule("features.3").weight)


@pytest.mark.parametrize(
    ("file_of", "network"), [("resnet20", "resnet32"), ("lenet5", "resnet20"), ("resnet20", "lenet5")]
)
def test_the_file_of_another_network_is_refused(file_of: str, network: str, tmp_path: Path) -> None:
    torch.save(create_model(file_of, seed=0).state_dict(), tmp_path / "other.pth")
    model = create_model(network, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"other\.pth is not for this network") as told:
        load_weights(model, tmp_path / "other.pth")
    assert "\n" not in str(told.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = create_model("lenet5", seed=0).state_dict()
    state["features.c3.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"not finite, first in features\.c3\.weight"):
        load_weights(create_model("lenet5", seed=1), tmp_path / "nan.pth")


def test_the_report_counts_every_parameter(tmp_path: Path) -> None:
    torch.save(create_model("resnet20", num_classes=10, seed=0).state_dict(), tmp_path / "ten.pth")
    model = create_model("resnet20", num_classes=3, seed=1)
    report: LoadReport = load_weights(model, tmp_path / "ten.pth")
    assert sum(row.parameters for row in report.layers) == sum(each.numel() for each in model.parameters())
    assert all(len(line) <= 80 for line in report.lines())
