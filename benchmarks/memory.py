"""Predicted memory against what PyTorch allocates: 12 networks, two batch sizes, beside the formulas in use.

    python benchmarks/memory.py --save
    python benchmarks/memory.py --only resnet50 densenet121

Predicts the peak of tensor memory of a forward pass and of training (SGD with momentum, channels_last, float32) by
`convatlas.inspection.memory`, on networks that take no memory. Then measures it, each network and batch in a process of
its own: what the network, the optimizer and the batch hold, and the most that PyTorch's profiler has seen allocated on
top during a prediction and two training steps. Beside it the textbook formula (three times the weights and twice the
outputs of all layers) and torchinfo's "estimated total size", where torchinfo can be imported.

--save keeps the figures in results/, with the hardware.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from turns import in_own_process

from engine import environment

RESULTS = Path(__file__).parent / "results"
MEGABYTE = 1e6
SIZES = {
    "lenet5": (28, (32, 256)),
    "alexnet": (224, (2, 16)),
    "nin_bn": (32, (16, 128)),
    "vgg11_bn_cifar": (32, (16, 128)),
    "vgg16": (128, (2, 8)),
    "vgg16_bn": (128, (2, 8)),
    "googlenet": (128, (2, 8)),
    "inception_v3": (299, (2, 4)),
    "resnet18": (128, (2, 16)),
    "resnet50": (128, (2, 8)),
    "densenet121": (128, (2, 8)),
    "mobilenet_v2": (128, (2, 16)),
}  # side of an image, batches


@dataclass(frozen=True)
class Row:
    """One network at one batch size; bytes."""

    network: str
    side: int
    batch: int
    predicted_inference: int
    measured_inference: int
    predicted_training: int
    measured_training: int
    textbook: int
    torchinfo: int | None
    planning_seconds: float

    @property
    def errors(self) -> tuple[float, float]:
        """Of inference and training, as a share of what was measured."""
        return (
            self.predicted_inference / self.measured_inference - 1,
            self.predicted_training / self.measured_training - 1,
        )


def compare(network: str, side: int, batch: int, threads: int) -> Row:
    predicted = in_own_process("memory", "predict", network, side, batch, threads)
    inference, training = in_own_process("memory", "measure", network, side, batch, threads)
    return Row(network, side, batch, predicted[0], inference, predicted[1], training, *predicted[2:])


def predict(network: str, side: int, batch: int, threads: int) -> tuple[int, int, int, int | None, float]:
    import torch

    from convatlas.inspection.memory import plan_memory
    from convatlas.models import outline_model

    torch.set_num_threads(threads)  # PyTorch's choice of kernels depends on it
    module = outline_model(network, image_size=side)
    shape = (batch, module.in_channels, side, side)
    began = time.perf_counter()
    plan = plan_memory(module, shape)
    seconds = time.perf_counter() - began
    return (
        plan.inference_peak_bytes,
        plan.training_peak_bytes,
        plan.textbook_bytes,
        by_torchinfo(network, shape),
        seconds,
    )


def by_torchinfo(network: str, shape: tuple[int, ...]) -> int | None:
    try:
        from torchinfo import summary
    except ImportError:
        return None
    from convatlas.models import create_model

    module = create_model(network, image_size=shape[-1], seed=0)
    result = summary(module, input_size=shape, verbose=0)
    return int(result.total_input + result.total_output_bytes + result.total_param_bytes)


def measure(network: str, side: int, batch: int, threads: int) -> tuple[int, int]:
    """The peak of tensor memory in a prediction and in two training steps."""
    import torch
    from torch.nn import functional

    from convatlas.models import create_model

    torch.set_num_threads(threads)
    module = create_model(network, image_size=side, seed=0).to(memory_format=torch.channels_last)
    images = torch.randn(batch, module.in_channels, side, side).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode():
            module.eval()(images)

    def train() -> None:
        module.train()
        for _ in range(2):
            output = module(images)
            heads = [output] if isinstance(output, torch.Tensor) else [output.logits, *output.auxiliary]
            del output
            loss = torch.stack([functional.cross_entropy(logits, labels) for logits in heads]).sum()
            del heads
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()

    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers(), images, labels))
    return held + allocated(forward), held + allocated(train)


def allocated(call: Callable[[], None]) -> int:
    """The largest running total of what is allocated and freed during a call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown, in MB of 10^6 bytes."""
    yield "| network | image | batch | training, predicted | measured | error | inference, predicted | measured | error | textbook | torchinfo |"  # noqa: E501, the table's own width
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        inference, training = row.errors
        cells = [
            row.network, f"{row.side}", f"{row.batch}",
            megabytes(row.predicted_training), megabytes(row.measured_training), f"{training:+.2%}",
            megabytes(row.predicted_inference), megabytes(row.measured_inference), f"{inference:+.2%}",
            megabytes(row.textbook), "" if row.torchinfo is None else megabytes(row.torchinfo),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.1f}"


def summary_of(rows: list[Row]) -> dict[str, object]:
    """Median and largest error, as shares of what was measured in training (ours in inference too)."""
    ratios = {
        "inference": [abs(row.errors[0]) for row in rows],
        "training": [abs(row.errors[1]) for row in rows],
        "textbook": [abs(row.textbook / row.measured_training - 1) for row in rows],
        "torchinfo": [abs(row.torchinfo / row.measured_training - 1) for row in rows if row.torchinfo is not None],
    }
    return {name: {"median": statistics.median(each), "worst": max(each)} for name, each in ratios.items() if each}


def save(recorded: dict[str, object]) -> Path:
    """A new file of today's date; several runs of a day are numbered."""
    names = (f"{datetime.now(UTC):%Y-%m-%d}-memory{suffix}.json" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    path = next(RESULTS / name for name in names if not (RESULTS / name).exists())
    text = json.dumps(recorded, indent=2)
    path.write_text(re.sub(r"\[[^][{}]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES), metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write results/<date>-memory.json")
    arguments = parser.parse_args()
    where = environment()
    with contextlib.suppress(metadata.PackageNotFoundError):
        where["torchinfo"] = metadata.version("torchinfo")
    print(f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}\n", flush=True)
    rows = []
    for network in arguments.only:
        side, batches = SIZES[network]
        for batch in batches:
            rows.append(compare(network, side, batch, arguments.threads))
            print(f"{network} {batch}: {rows[-1].errors[1]:+.2%}", flush=True)
    print("", *table(rows), "", sep="\n")
    for name, errors in summary_of(rows).items():
        print(name, errors)
    if arguments.save:
        recorded = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "threads": arguments.threads,
            "environment": where,
            "errors": summary_of(rows),
            "rows": [asdict(row) for row in rows],
        }
        print(save(recorded))


if __name__ == "__main__":
    main()
