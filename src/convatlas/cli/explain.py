"""``convatlas explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convatlas.explained import ExplainedFiles
    from convatlas.explanation import MethodName

ALL = "all"
METHODS_SHOWN = "gradcam|gradcam++|guided-backprop|occlusion|integrated-gradients|all"


def explain(
    run: Annotated[str, typer.Argument(help="A run of a classifier. Or a network that has ImageNet weights.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, folders of them, patterns.", metavar="IMAGE...")],
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Where this class is seen; else the most probable one."),
    ] = None,
    method: Annotated[str, typer.Option(metavar=METHODS_SHOWN, help="How to ask.")] = "gradcam",
    layer: Annotated[
        str | None,
        typer.Option(metavar="TAP", help="The layer to look at, by the paper's name; else the last one with a map."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Of a network by name: imagenet (the default), a file, a run.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures and the page go.")] = Path(
        "explained"
    ),
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code of somebody's own network, which the run may hold.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where in images a network sees what it says: pictures, and a page of all."""
    from convatlas.api import classifier_run
    from convatlas.cli.console import counting, print_json
    from convatlas.cli.subject import opened_subject
    from convatlas.data.readers.folder import named_images
    from convatlas.explained import explain_files
    from convatlas.runs import Run

    subject = opened_subject(run, weights, trust=trust)
    opened = classifier_run(subject) if isinstance(subject, Run) else subject
    with counting() as tell:
        written = explain_files(
            opened, named_images(images), out, methods=_methods(method), class_name=class_name, layer=layer, tell=tell
        )
    if as_json:
        print_json({"images": list(written.images), "page": written.page, "filters": written.filters})
    else:
        _print_explained(written)


def _methods(asked: str) -> tuple[MethodName, ...]:
    from convatlas.errors import unknown_name
    from convatlas.explanation import METHOD_NAMES, known_method

    if asked not in (*METHOD_NAMES, ALL):
        raise unknown_name("method", asked, (*METHOD_NAMES, ALL))
    return METHOD_NAMES if asked == ALL else (known_method(asked),)


def _print_explained(written: ExplainedFiles) -> None:
    """One line an image, then where the page is."""
    from rich.console import Console

    from convatlas.cli.text import print_lines
    from convatlas.reports.wording import printable

    console = Console(emoji=False, highlight=False)
    for image in written.images:
        files = ", ".join(each["file"] for each in image["methods"])
        answer = f"{image['class']}  {image['probability']:.2%}  layer {image['layer']}"
        print_lines(console, printable(f"{image['image']}  {answer}  {files}, {image['maps']}"))
    print_lines(console, printable(f"page  {written.page}"))
