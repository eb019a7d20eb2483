"""``convatlas probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def probe(
    network: Annotated[str, typer.Argument(help="A network by name, whose weights --weights names; or a run.")],
    data: Annotated[str, typer.Option(help="Images: a data set by name, a folder, a zip or tar of one, a .npz.")],
    weights: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Of a network by name: imagenet (the default), a file, a run.")
    ] = None,
    include: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Take only image files that fit: --include '*.jpg'")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose output is taken, by the paper's name; else the last before the head."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images the network sees.")] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Rare classes count as much as frequent ones.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Write the features and labels of every part to a file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a network's features say of other images without training: a linear probe and nearest neighbours."""
    from rich.console import Console
    from rich.markup import escape

    from convatlas.assessment.probe import probe_images
    from convatlas.cli.console import print_json, saying

    with saying() as told:
        report = probe_images(
            network,
            data,
            weights=weights,
            include=include,
            layer=layer,
            image_size=image_size,
            balanced=balance,
            out=out,
            told=told,
        )
    if as_json:
        print_json(report.to_dict())
        return
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for line in report.loaded:
        console.print(escape(line))
    baseline = report.baseline
    console.print(
        f"{baseline.features:,} features of {escape(report.layer)}, learnt from {baseline.learnt_from:,} images; "
        f"{report.seconds:.1f} s"
    )
    console.print(f"right of {baseline.probe.n:,} {baseline.part} images (95 % interval)")
    for line in baseline.lines():
        console.print(f"  {escape(line)}")
    if out is not None:
        console.print(f"features  {escape(str(out))}")
