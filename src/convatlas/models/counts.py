"""How large each network is: counted once, shipped in counts.json, and counted again by the tests.

Building a hundred networks to print a list would take half a minute.

After a network was added:

    python -c "from convatlas.models import counts; counts.write_counts()"
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypedDict, cast

import torch

from convatlas.models.contract import Autoencoder, Classifier, blank_input

FILE = "counts.json"


class Counts(TypedDict):
    """Numbers of one network at its own size. ``macs``: multiply-adds of one image or one row, evaluated."""

    parameters: int
    auxiliary_parameters: int
    buffers: int
    macs: int


@cache
def shipped_counts() -> dict[str, Counts]:
    """Name -> numbers."""
    text = (resources.files("convatlas.models") / FILE).read_text(encoding="utf-8")
    return cast("dict[str, Counts]", json.loads(text))


def count(model: Classifier | Autoencoder) -> Counts:
    """The numbers of a network, which may be on the meta device.

    Multiply-adds are those of convolutions and matrix products, as papers count them: half of what torch's
    ``FlopCounterMode`` says.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(blank_input(model))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    heads = model.auxiliary_heads if isinstance(model, Classifier) else ()
    auxiliary = sum(size for name, size in sizes.items() if name.split(".")[0] in heads)
    return Counts(
        parameters=sum(sizes.values()) - auxiliary,
        auxiliary_parameters=auxiliary,
        buffers=sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point()),
        macs=counter.get_total_flops() // 2,
    )


def write_counts() -> None:
    """Count every registered network and write the file."""
    from convatlas.models import list_models, outline_autoencoder, outline_image_autoencoder, outline_model

    counts = {name: count(outline_model(name)) for name in list_models(task="classify")}
    counts |= {name: count(outline_autoencoder(name)) for name in list_models(task="reconstruct")}
    counts |= {name: count(outline_image_autoencoder(name)) for name in list_models(task="reconstruct_images")}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in counts.items())
    (Path(__file__).parent / FILE).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
