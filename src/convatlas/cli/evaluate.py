"""``convatlas evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli.options import NetworkWeights, Trust

if TYPE_CHECKING:
    from convatlas.acceleration import Engine
    from convatlas.assessment.classifier import EvaluationReport
    from convatlas.runs import AutoencoderRun, ImageAutoencoderRun, ImageClassifier


def evaluate(
    run: Annotated[
        str,
        typer.Argument(help="A run: its directory, or its name under runs/. Or a network that has ImageNet weights."),
    ],
    data: Annotated[
        str | None, typer.Option(help="Other images or rows than the run's own test set; same classes or columns.")
    ] = None,
    include: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Of --data, only image files that fit: --include '*.jpg'")
    ] = None,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Average over four corners and centre, each mirrored too.")
    ] = False,
    prevalence: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of rows: the share of anomalies where it will be used, 0.2%.")
    ] = None,
    rows_a_day: Annotated[
        float | None, typer.Option(metavar="N", help="Of rows: how many come in a day, to say how many alarms do.")
    ] = None,
    weights: NetworkWeights = None,
    engine: Annotated[str | None, typer.Option(metavar="auto|torch", help="torch: do without the CPU engine.")] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="cuda|cpu|mps", help="Of a classifier: such as cuda:1; by default a GPU."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say which kernel runs each layer, and why.")] = False,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How good a run is: accuracy and confusions of a classifier; what an autoencoder finds, and its false alarms."""
    from convatlas.acceleration import known_engine

    asked = known_engine(engine) if engine is not None else None

    from convatlas.cli.options import refuse_options
    from convatlas.cli.subject import opened_subject
    from convatlas.errors import DataError
    from convatlas.runs import AutoencoderRun, ImageAutoencoderRun, ImageClassifier

    opened = opened_subject(run, weights, trust=trust)
    if include is not None and data is None:
        raise DataError("--include chooses among the files of --data: name those too, or leave it out")
    if isinstance(opened, AutoencoderRun | ImageAutoencoderRun):
        refuse_options(opened, ten_crop=ten_crop or None, engine=engine, device=device, explain=explain or None)
        if isinstance(opened, AutoencoderRun):
            refuse_options(opened, include=include)
        _evaluate_anomalies(opened, data, include, prevalence, rows_a_day, as_json=as_json)
        return
    refuse_options(opened, prevalence=prevalence, rows_a_day=rows_a_day)
    if isinstance(opened, ImageClassifier):
        from convatlas.training.processes import on_device

        with on_device(device):
            report = _report_of(opened, data, include, ten_crop, asked or "auto")
        _tell_of_images(opened, report, asked or "auto", explain=explain, as_json=as_json)


def _evaluate_anomalies(
    run: AutoencoderRun | ImageAutoencoderRun,
    data: str | None,
    include: str | None,
    prevalence: str | None,
    rows_a_day: float | None,
    *,
    as_json: bool,
) -> None:
    from convatlas.assessment.autoencoder import assess_autoencoder
    from convatlas.assessment.image_autoencoder import assess_image_autoencoder
    from convatlas.cli.anomalies import print_anomaly_evaluation
    from convatlas.cli.console import print_json, saying
    from convatlas.runs import ImageAutoencoderRun
    from convatlas.tasks.reconstruct.thresholds import parse_rate, require_positive

    if rows_a_day is not None:
        require_positive("rows a day", rows_a_day)
    with saying() as told:
        share = parse_rate(prevalence) if prevalence is not None else None
        if isinstance(run, ImageAutoencoderRun):
            report = assess_image_autoencoder(run, data=data, include=include, prevalence=share, told=told)
        else:
            report = assess_autoencoder(run, data=data, prevalence=share, told=told)
    if as_json:
        print_json(report.to_dict())
    else:
        print_anomaly_evaluation(report.to_dict(), rows_a_day)


def _tell_of_images(
    opened: ImageClassifier, report: EvaluationReport, asked: Engine, *, explain: bool, as_json: bool
) -> None:
    from convatlas.cli.console import print_acceleration, print_evaluation, print_json

    acceleration = opened.accelerated(asked) if explain else None
    if as_json:
        layers = {"layers": [vars(layer) for layer in acceleration.layers]} if acceleration else {}
        print_json(report.to_dict() | layers)
        return
    print_evaluation(report)
    if acceleration:
        print_acceleration(acceleration)


def _report_of(
    opened: ImageClassifier, data: str | None, include: str | None, ten_crop: bool, asked: Engine
) -> EvaluationReport:
    from convatlas.assessment.classifier import assess, assess_pretrained
    from convatlas.errors import DataError
    from convatlas.runs import ClassifierRun
    from convatlas.weights import PretrainedClassifier

    if isinstance(opened, ClassifierRun):
        return assess(opened, data=data, include=include, ten_crop=ten_crop, engine=asked)
    assert isinstance(opened, PretrainedClassifier)
    if ten_crop:
        raise DataError(f"ten crops are for the run of a classifier; {opened.name} is a network by name")
    if data is None:
        raise DataError(f"{opened.name} has no test images of its own: name some with --data")
    return assess_pretrained(opened, data, include=include, engine=asked)
