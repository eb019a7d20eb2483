"""Makes every comparison and writes docs/reference/parity.md: ``cd tests && python -m parity.report``.

Names of networks limit it to these, and nothing is written then.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from convatlas.models import list_models
from parity.cases import CASES, Case
from parity.compare import TOLERANCE, Differences, measure

PAGE = Path(__file__).parents[2] / "docs/reference/parity.md"

INTRODUCTION = f"""\
# Parity with other libraries

Networks here are written from their papers. Those that torchvision, timm or Keras (on its PyTorch backend) have too are
compared with them: the same random weights, the same random images, the logits in evaluation and in training mode, and
in training mode the gradients of all parameters. Nothing may be further apart than {TOLERANCE:.0e}.

- **Keys**: *strict* means that our state dict and theirs have the same keys; *mapped* that their layers were paired
  with ours in the order in which they run, and that every tensor on both sides was used exactly once.
- **Logits**: the largest absolute difference over the largest absolute logit; auxiliary heads count in training mode.
- **Gradients**, of a random linear function of the logits: in each layer, the largest absolute difference over the
  layer's largest absolute gradient; the table has the layer where it is worst. A layer and not a tensor, because the
  gradient of a bias before batch normalisation is nothing but rounding.
- Numbers are float32 unless the input says float64. Networks that add in another order differ by rounding; where that
  carries a value over the edge of a ReLU, or lets another pixel win a max pooling, a gradient moves as a whole.
- Weights keep a signal's size on its way, and running statistics are set near those of the images, so that every layer
  of the deepest network has its say in the logits. Zero means that both called PyTorch alike, step by step.
- **Adapted** is what had to be done so that two networks are the same function; each word is explained below the table.
"""

HEADER = """\
| Network | Library | Its name | Input | Keys | Logits, evaluation | Logits, training | Gradients | Adapted |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def main(names: list[str]) -> None:
    """Measure, and write the page."""
    chosen = [case for case in CASES if not names or case.model in names]
    measured = {case: timed(case) for case in chosen}
    if not names:
        PAGE.write_text("".join(page(measured)))


def timed(case: Case) -> Differences:
    """Measure one, and say what came out and how long it took."""
    before = time.perf_counter()
    found = measure(case)
    gc.collect()
    seconds = time.perf_counter() - before
    numbers = " ".join(f"{number:8.1e}" for number in (found.evaluation, found.training, found.gradients))
    print(f"{case.id:32} {numbers} {seconds:6.1f} s", flush=True)
    return found


def page(measured: dict[Case, Differences]) -> Iterator[str]:
    """The parts of the page."""
    yield f"{INTRODUCTION}\n{HEADER}"
    for case, found in measured.items():
        yield row(case, found)
    yield "\n## What was adapted\n\n"
    words = {(adaptation.name, adaptation.words) for case in measured for adaptation in case.adaptations}
    yield "".join(f"- **{name}**: {sentence}\n" for name, sentence in sorted(words))
    yield "\n## What was not compared\n\n"
    alone = [name for name in list_models() if name not in {case.model for case in measured}]
    yield (
        "None of the three libraries has these networks: "
        + ", ".join(f"`{name}`" for name in alone)
        + ". Their papers' figures are tests instead. timm's `resnetv2_18` and `resnetv2_34` have a projection in the "
        "first stage, and Keras' ResNetV2 halves the map in the last block of a stage: they are other networks than "
        "the pre-activated ones here.\n"
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", *sorted({case.library for case in measured})))
    yield (
        f"\nMeasured on {datetime.now(UTC):%Y-%m-%d} by `python -m parity.report` in `tests/`, with {libraries}, "
        f"Python {platform.python_version()}, on {processor()} with {os.cpu_count()} cores, PyTorch on "
        f"{torch.get_num_threads()} of them.\n"
    )


def row(case: Case, found: Differences) -> str:
    """One line of the table."""
    size = f"{case.batch}×3×{case.image_size}×{case.image_size}"
    cells = (
        f"`{case.model}`",
        f"{case.library} {version(case.library)}",
        f"`{case.their_name}`",
        size if case.dtype == torch.float32 else f"{size}, float64",
        "strict" if case.by_name else "mapped",
        *(f"{number:.1e}" if number else "0" for number in (found.evaluation, found.training, found.gradients)),
        ", ".join(adaptation.name for adaptation in case.adaptations),
    )
    return f"| {' | '.join(cells)} |\n"


def processor() -> str:
    """Its name, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
