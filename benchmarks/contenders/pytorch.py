"""Ours and PyTorch's own ways to run a module, as sessions of benchmarks/engine.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from networks import build_network, gradients, load_batch, without_dropout
from torch import Tensor, nn
from torch.nn import functional

from contenders import AbsentError, Job, Session

Wrap = Callable[[nn.Module, Tensor], tuple[nn.Module, Tensor]]


def ours(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    from convatlas import engine

    reason = engine.unavailable()
    if reason:  # accelerate would run the wrapped network, and PyTorch would be timed under our name
        raise AbsentError(reason)
    return engine.accelerate(network, images), images


def eager(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    return network, images


def channels_last(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    layout = torch.channels_last
    return network.to(memory_format=layout), images.contiguous(memory_format=layout)  # type: ignore[call-overload]


def compiled(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        raise AbsentError("torch.compile needs a C++ compiler, and there is no g++ or clang++")
    return torch.compile(network), images


def compiled_channels_last(network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    return compiled(*channels_last(network, images))


def start(wrap: Wrap, job: Job) -> Session:
    torch.set_num_threads(job.threads)
    images, labels = load_batch(job)
    training = job.workload.task == "training"
    network, images = wrap(build_network(job.workload).train(training), images)
    network.train(training)
    run = step(network, images, labels) if training else forward(network, images)
    return Session(run, module=network)


def forward(network: nn.Module, images: Tensor) -> Callable[[], Any]:
    @torch.inference_mode()
    def run() -> Any:
        return network(images).numpy()

    return run


def step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], float]:
    # A rate so small that many steps over one batch leave the numbers as they are in training: no zeros, no infinities.
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)

    def run() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def checked_gradients(wrap: Wrap, job: Job) -> Any:
    """From a network built anew: the one that was timed has been trained, and is for another batch."""
    job = replace(job, workload=job.workload.checked)
    images, labels = load_batch(job)
    network, images = wrap(without_dropout(build_network(job.workload)).train(), images)
    return gradients(network, images, labels)


SESSIONS = {
    "ours": partial(start, ours),
    "eager": partial(start, eager),
    "channels_last": partial(start, channels_last),
    "compile": partial(start, compiled),
    "compile_channels_last": partial(start, compiled_channels_last),
}

GRADIENTS = {"ours": partial(checked_gradients, ours), "eager": partial(checked_gradients, eager)}
