"""The networks of benchmarks/engine.py as PyTorch modules, the same in every process; and their float64 reference."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
import torchvision
from contenders import KERAS, ONNX_FILE, Job
from torch import Tensor, nn
from torch.nn import functional
from workloads import Facts, Workload

from convatlas.models import list_models
from convatlas.models.registry import outline_model

SEED = 0
SQUARE = 2048  # side of the matrices whose product tells what the machine can do


def build_network(workload: Workload) -> nn.Module:
    """The network with the same weights wherever it is called: ours where we have it, else torchvision's."""
    network = outline(workload).to_empty(device="cpu")
    initialize(network)
    return network


def outline(workload: Workload) -> nn.Module:
    """The network's layers, on the meta device."""
    if workload.network in list_models():
        return outline_model(workload.network, num_classes=workload.classes, image_size=workload.side)
    with torch.device("meta"):
        if workload.network == "googlenet":
            return torchvision.models.googlenet(num_classes=workload.classes, aux_logits=False, init_weights=False)
        network: nn.Module = getattr(torchvision.models, workload.network.removesuffix("_cifar"))(
            num_classes=workload.classes
        )
        if workload.network == "resnet18_cifar":  # what CIFAR's ResNets start with: keeps all 32x32 pixels
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        return network


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """he_normal weights; biases, scales and running statistics that a folding which forgets one of them gets wrong."""
    generator = torch.Generator().manual_seed(SEED)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                module.bias.normal_(std=0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            for shift in (module.bias, module.running_mean):
                shift.normal_(std=0.1, generator=generator)
            module.num_batches_tracked.zero_()
        elif any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise NotImplementedError(f"no initial weights for {type(module).__name__}")


def load_batch(job: Job) -> tuple[Tensor, Tensor]:
    """Images and labels of the job's workload, or of the smaller one it was replaced by."""
    count = job.workload.batch
    return torch.from_numpy(np.load(job.images)[:count]), torch.from_numpy(np.load(job.labels)[:count])


def without_dropout(network: nn.Module) -> nn.Module:
    """The same network, its dropout layers passing everything: what is compared must not depend on chance."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def gradients(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray[Any, Any]:
    """The gradients of all parameters, flat and one after the other."""
    network.train()
    functional.cross_entropy(network(images), labels).backward()
    return np.concatenate([parameter.grad.numpy().ravel() for parameter in network.parameters()])


def prepare(job: Job, contenders: list[str]) -> Facts:
    """Write what the job's folder holds for all contenders, and measure the machine.

    ``job.contender`` plays no part. Runs in a process of its own, since the float64 network is large.
    """
    torch.set_num_threads(job.threads)
    write_batch(job)
    network = build_network(job.workload)
    if set(ONNX_FILE) & set(contenders):
        write_onnx(job, network)
    if KERAS in contenders:
        np.savez(job.weights, **layer_arrays(network))
    np.save(job.reference, reference(job, network))
    return Facts(multiply_adds(job.workload), ceiling())


def write_batch(job: Job) -> None:
    generator = torch.Generator().manual_seed(SEED + 1)
    workload = job.workload
    images = torch.randn(workload.batch, 3, workload.side, workload.side, generator=generator)
    np.save(job.images, images.numpy())
    np.save(job.labels, torch.randint(workload.classes, (workload.batch,), generator=generator).numpy())


def write_onnx(job: Job, network: nn.Module) -> None:
    with warnings.catch_warnings(action="ignore"):  # the older exporter writes the same graph in a third of the time
        torch.onnx.export(
            copy.deepcopy(network).eval(), (load_batch(job)[0],), str(job.onnx), input_names=["images"], dynamo=False
        )


def layer_arrays(network: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Weights and statistics by kind of layer, number and role: conv.0.weight, norm.3.running_mean, linear.2.bias."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for kind, of_type in {"conv": nn.Conv2d, "norm": nn.BatchNorm2d, "linear": nn.Linear}.items():
        layers = [module for module in network.modules() if isinstance(module, of_type)]
        for number, layer in enumerate(layers):
            arrays |= {f"{kind}.{number}.{role}": array.numpy() for role, array in layer.state_dict().items()}
    return arrays


def reference(job: Job, network: nn.Module) -> np.ndarray[Any, Any]:
    """float64 logits or gradients of `Workload.checked`; takes the network over."""
    count = job.workload.checked.batch
    images, labels = (tensor[:count] for tensor in load_batch(job))
    network = without_dropout(network).double()
    if job.workload.task == "training":
        return gradients(network, images.double(), labels)
    with torch.inference_mode():
        logits: np.ndarray[Any, Any] = network.eval()(images.double()).numpy()
        return logits


def multiply_adds(workload: Workload) -> int:
    """Of convolutions and dense layers. A step does each three times: output, gradient of weights and of the input.

    The first layer's input needs no gradient.
    """
    counts: list[int] = []

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    network = outline(workload).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.empty(1, 3, workload.side, workload.side, device="meta"))
    passes = 1 if workload.task == "inference" else 3
    return workload.batch * (passes * sum(counts) - (passes == 3) * counts[0])


def ceiling() -> float:
    """GFLOP/s of the best of ten float32 matrix products."""
    left, right, out = (torch.ones(SQUARE, SQUARE) for _ in range(3))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * SQUARE**3 / best / 1e9
