"""``convatlas explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli.options import NetworkWeights, Trust

if TYPE_CHECKING:
    from convatlas.explained import ExplainedFiles, OfData
    from convatlas.explanation import MethodName

ALL = "all"
METHODS_SHOWN = "gradcam|gradcam++|guided-backprop|occlusion|integrated-gradients|all"


def explain(
    run: Annotated[str, typer.Argument(help="A run of a classifier. Or a network that has ImageNet weights.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, folders of them, patterns.", metavar="[IMAGE...]")
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Where this class is seen; else the most probable one."),
    ] = None,
    method: Annotated[str, typer.Option(metavar=METHODS_SHOWN, help="How to ask.")] = "gradcam",
    layer: Annotated[
        str | None,
        typer.Option(metavar="TAP", help="The layer to look at, by the paper's name; else the last one with a map."),
    ] = None,
    weights: NetworkWeights = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="The training images that the network takes to be most like each image.")
    ] = False,
    features_map: Annotated[
        bool, typer.Option("--map", help="A map of the features of the test images, or else of the validation's.")
    ] = False,
    projection: Annotated[
        str | None, typer.Option(metavar="tsne|umap", help="How that map is made; tsne when left out.")
    ] = None,
    channels: Annotated[
        list[str] | None,
        typer.Option("--channel", metavar="LAYER:NUMBER", help="The training images that most excite a channel."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="D", help="Where the run's images are now; of a network by name, any images."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures and the page go.")] = Path(
        "explained"
    ),
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show where in images a network sees what it says, and what its own images say about it: pictures, one page."""
    from convatlas.api import classifier_run
    from convatlas.cli.console import counting, print_json
    from convatlas.cli.subject import opened_subject
    from convatlas.data.readers.folder import named_images
    from convatlas.explained import explain_files
    from convatlas.runs import Run

    subject = opened_subject(run, weights, trust=trust)
    opened = classifier_run(subject) if isinstance(subject, Run) else subject
    asked = _of_data(nearest, features_map, projection, channels, data)
    with counting() as tell:
        written = explain_files(
            opened,
            named_images(images) if images else [],
            out,
            methods=_methods(method),
            class_name=class_name,
            layer=layer,
            of_data=asked,
            tell=tell,
        )
    if as_json:
        print_json(written.to_dict())
    else:
        _print_explained(written)


def _of_data(
    nearest: bool, features_map: bool, projection: str | None, channels: list[str] | None, data: str | None
) -> OfData:
    from convatlas.errors import ExplanationError
    from convatlas.explained import OfData
    from convatlas.explained.nearest import MOST_NEAR

    if projection is not None and not features_map:
        raise ExplanationError("--projection says how the map of the features is made: add --map, or leave it out")
    asked = OfData(
        nearest=MOST_NEAR if nearest else 0,
        projection=(projection or "tsne") if features_map else None,
        channels=tuple(channels or ()),
        data=data,
    )
    if data is not None and not asked.is_asked:
        raise ExplanationError("--data names the images for --nearest, --map and --channel: add one, or leave it out")
    return asked


def _methods(asked: str) -> tuple[MethodName, ...]:
    from convatlas.errors import unknown_name
    from convatlas.explanation import METHOD_NAMES, known_method

    if asked not in (*METHOD_NAMES, ALL):
        raise unknown_name("method", asked, (*METHOD_NAMES, ALL))
    return METHOD_NAMES if asked == ALL else (known_method(asked),)


def _print_explained(written: ExplainedFiles) -> None:
    """One line an image, what the run's own images say, then where the page is."""
    from rich.console import Console

    from convatlas.cli.text import print_lines
    from convatlas.reports.wording import printable

    lines = [line for image in written.images for line in _image_lines(image)]
    if (drawn := written.features_map) is not None:
        wrong = f", {drawn['misclassified']:,} misclassified" if drawn["misclassified"] is not None else ""
        lines.append(f"map  {drawn['images']:,} {drawn['part']} images{wrong}  {drawn['file']}, {drawn['table']}")
    for each in written.channels:
        place = each["file"] or "no training image excites it"
        lines.append(f"channel  {each['layer']}:{each['channel']}  {place}")
    lines += [f"! {remark}" for remark in written.remarks]
    lines.append(f"page  {written.page}")
    print_lines(Console(emoji=False, highlight=False), *map(printable, lines))


def _image_lines(image: dict[str, Any]) -> list[str]:
    files = ", ".join(each["file"] for each in image["methods"])
    answer = f"{image['class']}  {image['probability']:.2%}  layer {image['layer']}"
    lines = [f"{image['image']}  {answer}  {files}, {image['maps']}"]
    if "nearest" in image:
        near = ", ".join(f"{each['class_name']} {each['similarity']:.2f}" for each in image["nearest"])
        lines.append(f"  nearest  {near}  {image['nearest_file']}")
    return lines
