"""Keras on TensorFlow, as sessions of benchmarks/engine.py: keras.applications' networks, else VGG by hand.

Images are [N, H, W, C] here, as TensorFlow has them. All networks get PyTorch's weights, but for ResNet-50.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from contenders import AbsentError, Job, Session

APPLICATIONS = {"vgg16": "VGG16", "vgg19": "VGG19", "resnet50": "ResNet50", "densenet121": "DenseNet121"}
DIFFERENT = {"resnet50": "keras.applications' ResNet50 halves in a block's 1x1 convolution, torchvision's in its 3x3"}

CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # in each stage
WIDTHS = (64, 128, 256, 512, 512)


def start(job: Job) -> Session:
    tf.config.threading.set_intra_op_parallelism_threads(job.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    network = build_network(job)
    note = DIFFERENT.get(job.workload.network, "")
    if not note:
        with np.load(job.weights) as arrays:
            give_weights(network, arrays)
    images = np.ascontiguousarray(np.load(job.images).transpose(0, 2, 3, 1))
    if job.workload.task == "training":
        return Session(step(network, images, np.load(job.labels)), note=note)
    batch = tf.constant(images)
    forward = tf.function(lambda images: network(images, training=False))
    return Session(lambda: forward(batch).numpy(), note=note)


def step(network: keras.Model, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:
    network.compile(
        optimizer=keras.optimizers.SGD(learning_rate=1e-4, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return lambda: float(network.train_on_batch(images, labels))


def build_network(job: Job) -> keras.Model:
    workload = job.workload
    if workload.task == "inference" and workload.network in APPLICATIONS:
        return getattr(keras.applications, APPLICATIONS[workload.network])(weights=None, classifier_activation=None)
    family = workload.network.split("_")[0]
    if family not in CONVOLUTIONS:
        raise AbsentError(f"keras.applications has no {workload.network}")
    return vgg(family, workload.side, workload.classes, batch_norm="_bn" in workload.network)


def vgg(family: str, side: int, classes: int, *, batch_norm: bool) -> keras.Model:
    """The layers of convatlas.models.vgg: with two dense layers at 224, with the output layer alone at 32."""
    layers = keras.layers
    network = keras.Sequential([keras.Input((side, side, 3))])
    for width, convolutions in zip(WIDTHS, CONVOLUTIONS[family], strict=True):
        for _ in range(convolutions):
            network.add(layers.Conv2D(width, 3, padding="same", activation=None if batch_norm else "relu"))
            if batch_norm:
                network.add(layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
                network.add(layers.ReLU())
        network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    for width in (4096, 4096) if side == 224 else ():
        network.add(layers.Dense(width, activation="relu"))
        network.add(layers.Dropout(0.5))
    network.add(layers.Dense(classes))
    return network


def give_weights(network: keras.Model, arrays: Any) -> None:
    """Put in what `networks.layer_arrays` took out, layer after layer of a kind."""
    layers = keras.layers
    convolutions, norms, dense = (
        [layer for layer in network.layers if isinstance(layer, of_type)]
        for of_type in (layers.Conv2D, layers.BatchNormalization, layers.Dense)
    )
    for number, layer in enumerate(convolutions):
        weight = arrays[f"conv.{number}.weight"].transpose(2, 3, 1, 0)
        layer.set_weights([weight, arrays[f"conv.{number}.bias"]] if layer.use_bias else [weight])
    for number, layer in enumerate(norms):
        layer.set_weights(
            [arrays[f"norm.{number}.{role}"] for role in ("weight", "bias", "running_mean", "running_var")]
        )
    flattened = any(isinstance(layer, layers.Flatten) for layer in network.layers)
    for number, layer in enumerate(dense):
        weight = arrays[f"linear.{number}.weight"]
        if number == 0 and flattened:
            weight = height_width_channel(weight, channels=convolutions[-1].filters)
        layer.set_weights([weight.T, arrays[f"linear.{number}.bias"]])


def height_width_channel(weight: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    """The first dense layer's weight [outputs, C * H * W] for a map that is flattened as [H, W, C]."""
    outputs, inputs = weight.shape
    return weight.reshape(outputs, channels, inputs // channels).transpose(0, 2, 1).reshape(outputs, inputs)


SESSIONS = {"keras": start}
