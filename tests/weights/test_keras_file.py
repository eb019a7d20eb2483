"""Keras' files: layouts, names and order, against what Keras itself computes; and files that lead elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convatlas.errors import WeightsError
from convatlas.models import create_model
from convatlas.weights import load_weights, open_weights
from convatlas.weights.keras_file import read_keras_file

h5py = pytest.importorskip("h5py")


def keras_2_file(path: Path, layers: dict[str, dict[str, np.ndarray[Any, Any]]]) -> Path:
    """A file as Keras 2's ``save_weights`` writes it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = b"tensorflow"
        for name, arrays in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{each}:0".encode() for each in arrays]
            for each, array in arrays.items():
                group[f"{name}/{each}:0"] = array
    return path


def vgg11_blocks() -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """What VGG-11's convolutions would be called there."""
    chance = np.random.default_rng(0)
    widths = {1: (64,), 2: (128,), 3: (256, 256), 4: (512, 512), 5: (512, 512)}
    found, inputs = {}, 3
    for block, outputs in widths.items():
        for number, width in enumerate(outputs, start=1):
            kernel = chance.normal(size=(3, 3, inputs, width)).astype(np.float32)
            bias = chance.normal(size=width).astype(np.float32)
            found[f"block{block}_conv{number}"] = {"kernel": kernel, "bias": bias}
            inputs = width
        found[f"block{block}_pool"] = {}
    return found


def test_keras_names_go_into_another_network_by_the_papers_names(tmp_path: Path) -> None:
    blocks = vgg11_blocks()
    path = keras_2_file(tmp_path / "vgg11_weights_tf_dim_ordering_tf_kernels_notop.h5", blocks)
    model = create_model("vgg11_bn_cifar", seed=0)
    report = load_weights(model, path)
    assert report.how == "by the layers' names in the paper"
    kernel = torch.from_numpy(blocks["block3_conv2"]["kernel"]).permute(3, 2, 0, 1)
    place = model.taps["conv3_2"].module
    convolution = model.get_submodule(f"features.{int(place.rpartition('.')[2]) - 2}")
    assert torch.equal(convolution.weight, kernel)
    by_status = {row.status for row in report.layers}
    assert by_status == {"loaded", "initial", "new head"}  # batch norms are not in the file
    assert open_weights(path, "vgg11_bn_cifar").normalization == "caffe"


def test_too_little_is_an_error_unless_asked(tmp_path: Path) -> None:
    blocks = dict(list(vgg11_blocks().items())[:3])
    path = keras_2_file(tmp_path / "part.h5", blocks)
    model = create_model("vgg11_bn_cifar", seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"is not for this network: .* of its .* parameters"):
        load_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert 0 < load_weights(model, path, partial=True).share < 0.5


def randomised(name: str, size: int) -> Any:
    """A network of ``keras.applications`` whose every number is random."""
    from parity.libraries import keras

    model = getattr(keras().applications, name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None, classes=1000
    )
    chance = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith(("moving_mean", "bias", "beta")):
            weight.assign(chance.normal(size=weight.shape) * 0.1)
        elif weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(chance.uniform(0.8, 1.2, size=weight.shape))
    return model


def saved(model: Any, path: Path) -> Path:
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_a_map_is_flattened_as_here(suffix: str, tmp_path: Path) -> None:
    from parity.libraries import keras

    layers = keras().layers
    model = keras().Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu", bias_initializer="normal"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu", bias_initializer="normal"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu", bias_initializer="normal"),
            layers.Dense(84, activation="relu", bias_initializer="normal"),
            layers.Dense(10, bias_initializer="normal"),
        ]
    )
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images.permute(0, 2, 3, 1).contiguous(), training=False)
    ours = create_model("lenet5", seed=0).eval()
    report = load_weights(ours, saved(model, tmp_path / f"lenet{suffix}"))
    assert (report.share, report.skipped) == (1.0, ())
    with torch.no_grad():
        assert torch.allclose(ours(images), expected, atol=1e-5)


KERAS = [
    pytest.param("densenet121", "DenseNet121", 64, marks=pytest.mark.slow),
    pytest.param("resnet50_v1", "ResNet50", 64, marks=pytest.mark.slow),
    pytest.param("inception_resnet_v2", "InceptionResNetV2", 139, marks=pytest.mark.slow),
    pytest.param("vgg16", "VGG16", 224, marks=pytest.mark.slow),  # the order in which the map is flattened
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("ours", "theirs", "size"), KERAS)
def test_files_of_keras_give_the_logits_of_keras(ours: str, theirs: str, size: int, tmp_path: Path) -> None:
    keras_model = randomised(theirs, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = keras_model(images.permute(0, 2, 3, 1).contiguous(), training=False)
    for suffix in (".weights.h5", ".keras", ".h5"):
        path = saved(keras_model, tmp_path / f"{theirs}{suffix}")
        model = create_model(ours, image_size=size, seed=0).eval()
        report = load_weights(model, path)
        assert report.share == 1, report.lines()
        with torch.no_grad():
            logits = model(images)
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()
        path.unlink()


def test_a_link_to_another_file_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = np.zeros((3, 3, 3, 64), np.float32)
    path = tmp_path / "leads.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1"]
        group = file.create_group("block1_conv1")
        group.attrs["weight_names"] = [b"kernel:0"]
        group["kernel:0"] = h5py.ExternalLink(str(secret), "kernel")
    with pytest.raises(WeightsError, match="leads elsewhere"):
        read_keras_file(path)


def test_a_small_file_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", shape=(2**20, 2**20), dtype="f4", chunks=(2**10, 2**10), compression="gzip")
    with pytest.raises(WeightsError, match="more than"):
        read_keras_file(path)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(64)])
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
def test_damaged_files_are_told_in_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as told:
        read_keras_file(path)
    assert "\n" not in str(told.value)
