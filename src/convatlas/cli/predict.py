"""``convatlas predict``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli.options import NetworkWeights, Trust

if TYPE_CHECKING:
    from convatlas.acceleration import Engine
    from convatlas.runs import AutoencoderRun, ImageAutoencoderRun, ImageClassifier
    from convatlas.runs.autoencoder import Scored
    from convatlas.tasks.classify.task import Prediction
    from convatlas.tasks.reconstruct.answers import ImagePrediction

CLASSES_NAMED, ROWS_NAMED = 5, 10


def predict(
    run: Annotated[
        str,
        typer.Argument(help="A run: its directory, or its name under runs/. Or a network that has ImageNet weights."),
    ],
    what: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of them, patterns such as '*.jpg'; or a table of rows.", metavar="IMAGE...|TABLE"
        ),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="Classes to name for each image (5), or highest rows to explain (10).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Of rows: write the score of each to a file.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of an autoencoder of images: write each image with what is wrong marked."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Of a classifier: write the classes of each image to a file."),
    ] = None,
    weights: NetworkWeights = None,
    engine: Annotated[str | None, typer.Option(metavar="auto|torch", help="torch: do without the CPU engine.")] = None,
    trust: Trust = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="cuda|cpu|mps", help="Of a classifier: such as cuda:1; by default the CPU."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Use a trained run: the class of each image, or the anomalies among rows."""
    from convatlas.acceleration import known_engine

    asked = known_engine(engine) if engine is not None else None

    from convatlas.cli.options import refuse_options
    from convatlas.cli.subject import opened_subject
    from convatlas.runs import AutoencoderRun, ImageAutoencoderRun, ImageClassifier

    opened = opened_subject(run, weights, trust=trust)
    if isinstance(opened, AutoencoderRun):
        refuse_options(opened, engine=engine, device=device, maps=maps, csv=csv)
        _predict_rows(opened, what, top or ROWS_NAMED, out, as_json=as_json)
        return
    refuse_options(opened, out=out)
    if isinstance(opened, ImageAutoencoderRun):
        refuse_options(opened, engine=engine, device=device, top=top, csv=csv)
        _predict_anomalies(opened, what, maps, as_json=as_json)
        return
    refuse_options(opened, maps=maps)
    if isinstance(opened, ImageClassifier):
        if device is not None:
            from convatlas.training.processes import known_device

            opened.model().to(known_device(device))
        _predict_images(opened, what, top or CLASSES_NAMED, asked or "auto", csv, as_json=as_json)


def _predict_images(
    run: ImageClassifier, named: list[Path], top: int, engine: Engine, csv: Path | None, *, as_json: bool
) -> None:
    """Classes of all images that can be read; the others are named, and none at all is a mistake."""
    from convatlas.cli.console import counting, print_json, print_predictions, unlike_warning
    from convatlas.data.readers.folder import named_images
    from convatlas.errors import DataError

    images = named_images(named)
    unreadable: list[DataError] = []
    predictions: list[Prediction] = []
    with counting() as tell:
        for batch in run.predictions(images, top, engine, unreadable.append):
            predictions += batch
            tell("images", len(predictions) + len(unreadable), len(images))
    if not predictions:
        raise unreadable[0]
    if csv is not None:
        _write_classes(csv, predictions)
    if as_json:
        print_json([_record_of(each) for each in predictions])
    elif csv is None:
        print_predictions(predictions)
    if (warning := unlike_warning(predictions)) is not None:
        print(warning, file=sys.stderr)
    for error in unreadable:
        print(f"convatlas: left out: {error}", file=sys.stderr)


def _record_of(prediction: Prediction) -> dict[str, Any]:
    """A prediction as JSON has it; "unlike" is null where it is not known."""
    top = [{"class": name, "probability": probability} for name, probability in prediction.top]
    return {"image": prediction.image, "top": top, "unlike": prediction.unlike}


def _write_classes(path: Path, predictions: Sequence[Prediction]) -> None:
    """A line for each image and class: the image, the place of the class, its name and probability, what is unlike."""
    import csv

    from convatlas.files import replacing

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "rank", "class", "probability", "unlike"))
        for each in predictions:
            for rank, (name, probability) in enumerate(each.top, start=1):
                writer.writerow((each.image, rank, name, f"{probability:.6f}", "; ".join(each.unlike or ())))


def _predict_anomalies(run: ImageAutoencoderRun, named: list[Path], maps: Path | None, *, as_json: bool) -> None:
    """Scores of all images that can be read; the others are named, and none at all is a mistake."""
    from convatlas.cli.anomalies import print_image_alarms
    from convatlas.cli.console import counting, print_json
    from convatlas.data.readers.folder import named_images
    from convatlas.errors import DataError

    images = named_images(named)
    unreadable: list[DataError] = []
    found: list[dict[str, Any]] = []
    with counting() as tell:
        for batch in run.predictions(images, unreadable.append):
            for each in batch:
                number = f"{len(found) + 1:0{len(str(len(images)))}}"
                found.append(each.to_dict() | {"map": _write_map(run, each, maps, number) if maps else None})
            tell("images", len(found) + len(unreadable), len(images))
    if not found:
        raise unreadable[0]
    threshold = run.card.threshold.model_dump() if run.card.threshold is not None else None
    record = {"images": found, "threshold": threshold}
    if as_json:
        print_json(record)
    else:
        print_image_alarms(record)
    for error in unreadable:
        print(f"convatlas: left out: {error}", file=sys.stderr)


def _write_map(run: ImageAutoencoderRun, found: ImagePrediction, folder: Path, number: str) -> str:
    """A picture with its map and boxes, as ``<folder>/<number>-<name>.png``."""
    from convatlas.data.decode import load_upright
    from convatlas.files import replacing
    from convatlas.reports.residuals import marked

    path = folder / f"{number}-{Path(found.image).stem}.png"
    with replacing(path) as temporary:
        picture = load_upright(Path(found.image))
        marked(picture, found.residual, found.boxes, run.calibration().wrong_above).save(temporary, "PNG")
    return str(path)


def _predict_rows(run: AutoencoderRun, tables: list[Path], top: int, out: Path | None, *, as_json: bool) -> None:
    from convatlas.cli.anomalies import print_alarms
    from convatlas.cli.console import print_json
    from convatlas.errors import DataError

    if len(tables) != 1:
        raise DataError(f"rows are scored a table at a time; received {len(tables)}: {', '.join(map(str, tables))}")
    scored = run.predict(tables[0], explain=top)
    if out is not None:
        _write_scores(out, scored)
    record = {
        "table": str(tables[0]),
        "rows": len(scored.scores),
        "alarms": int(scored.alarms.sum()),
        "threshold": run.card.threshold.model_dump() if run.card.threshold is not None else None,
        "highest": [row.to_dict() for row in scored.highest],
        "scores": str(out) if out is not None else None,
    }
    if as_json:
        print_json(record)
    else:
        print_alarms(record)


def _write_scores(path: Path, scored: Scored) -> None:
    import pandas as pd

    from convatlas.files import replacing

    columns = {"score": scored.scores, "p_value": scored.p_values, "alarm": scored.alarms.astype(int)}
    table = pd.DataFrame({"row": range(1, len(scored.scores) + 1)} | columns)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
