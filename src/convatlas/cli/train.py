"""``convatlas train``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from convatlas.cli.options import Trust

_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A network, such as vgg11_bn_cifar; `convatlas models` lists them. Or your own: my_net.py:FUNCTION."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: a data set by name, a folder, a zip or tar of one, a .npz. Rows: a .csv, .parquet or .npz."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A shipped recipe or a .toml file; by default the network's own.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images, in all.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="The same as --set batch_size=N.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="The same as --set learning_rate=R.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="Train for this long in all instead: 90s, 10m, 2h.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe: --set learning_rate=0.01"),
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images the network sees.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table: the column that tells normal rows from anomalies.")
    ] = None,
    normal: Annotated[
        str | None, typer.Option(metavar="VALUE", help="The label of normal rows; by default the most frequent.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Divide the rows by time: the latest are the test set.")
    ] = None,
    false_alarms: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of the normal rows, that may be called anomalies: 1%, 0.1%.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; by default a new one in runs/.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order, augmentation and dropout.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with a run, to its end or to a larger --epochs.")] = None,
    include: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Take only image files that fit: --include '*.jpg'")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse damaged images instead of skipping them.")] = False,
    engine: Annotated[
        str | None, typer.Option(metavar="auto|torch", help="torch: leave the CPU engine out of it.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="cuda|cpu|mps", help="Train on this device, as cuda:1; by default a GPU."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Train within this much memory: 8GB, 800MB.")
    ] = None,
    trust: Trust = False,
    weights: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Start from weights: imagenet, a .pth, .safetensors or .h5 file, a run."),
    ] = None,
    partial_weights: Annotated[
        bool, typer.Option("--partial-weights", help="Accept weights of a part of the network.")
    ] = False,
    freeze: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers that keep their weights: features, or until:conv4."),
    ] = None,
    head_rate: Annotated[
        str | None, typer.Option(metavar="20x", help="The output layer's learning rate, times the others'.")
    ] = None,
    layer_rates: Annotated[
        float | None, typer.Option(help="The first layer's learning rate as a share of the last's: 0.3.")
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="Rare classes count as much in the loss as frequent ones.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say which kernel runs each layer, and why.")] = False,
) -> int:
    """Train a classifier on images or an autoencoder on rows; leaves a run to evaluate and predict with."""
    from convatlas.errors import ConvatlasError

    budget = _seconds(time_budget) if time_budget else None
    if resume is not None:
        _refuse_with_resume(
            model=model,
            recipe=recipe,
            batch=batch,
            lr=learning_rate,
            set=settings,
            image_size=image_size,
            label=label,
            normal=normal,
            time=time,
            false_alarms=false_alarms,
            out=out,
            seed=seed,
            strict=strict or None,
            include=include,
            memory=memory,
            weights=weights,
            partial_weights=partial_weights or None,
            freeze=freeze,
            head_rate=head_rate,
            layer_rates=layer_rates,
            balance=balance or None,
        )
    elif trust:
        raise ConvatlasError("--trust is for the code that a run holds, with --resume: leave it out")
    elif model is None or data is None:
        raise ConvatlasError(
            "train needs a network and --data, for example: convatlas train lenet5 --data fashion-mnist"
        )

    from convatlas.acceleration import known_engine

    asked = known_engine(engine) if engine is not None else None

    from convatlas import api
    from convatlas.cli.console import print_run_summary
    from convatlas.training.processes import is_main
    from convatlas.training.progress import RichWatch
    from convatlas.training.recipe import parse_settings

    watch = RichWatch(explain=explain)
    if resume is not None:
        run = api.resume(
            resume,
            data=data,
            epochs=epochs,
            time_budget=budget,
            engine=asked,
            device=device,
            trust=trust,
            watch=watch,
        )
    else:
        run = api.train(
            str(model),
            data=str(data),
            recipe=recipe,
            image_size=image_size,
            label=label,
            normal=normal,
            time=time,
            false_alarms=false_alarms,
            out=out,
            strict=strict or None,
            include=include,
            engine=asked,
            device=device,
            memory=memory,
            weights=weights,
            partial_weights=partial_weights,
            watch=watch,
            **parse_settings(settings or [])
            | _given(
                epochs=epochs,
                batch_size=batch,
                learning_rate=learning_rate,
                time_budget=budget,
                seed=seed,
                freeze=freeze,
                head_rate=_times(head_rate),
                layer_rates=layer_rates,
                class_weights="balanced" if balance else None,
            ),
        )
    return print_run_summary(run) if is_main() else 0


def _refuse_with_resume(**options: object) -> None:
    from convatlas.errors import ConvatlasError

    given = ["MODEL" if name == "model" else f"--{name.replace('_', '-')}" for name in _given(**options)]
    if given:
        raise ConvatlasError(
            f"--resume goes on with the run as its card says; leave out {', '.join(given)} "
            "(only --epochs or --time-budget, --engine and --device may change, and --data when the images or rows "
            "have moved)"
        )


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _times(text: str | None) -> float | None:
    """How many times: 20x or 20."""
    from convatlas.errors import ConvatlasError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text.strip())
    if match is None or float(match[1]) == 0:
        raise ConvatlasError(f"--head-rate takes a number of times such as 20x; received {text!r}")
    return float(match[1])


def _seconds(text: str) -> float:
    """Seconds of a duration such as 90s, 10m, 5min or 1h30m."""
    from convatlas.errors import ConvatlasError

    parts = re.findall(r"(\d+(?:\.\d+)?)(sec|min|[smh])", text.replace(" ", ""))
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text.replace(" ", "") or total == 0:
        raise ConvatlasError(f"--time-budget takes a duration such as 90s, 10m, 5min or 1h30m; received {text!r}")
    return total
