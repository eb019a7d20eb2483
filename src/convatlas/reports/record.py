"""The plain records a report is made from: JSON types only, so a report needs neither torch nor the run's code."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class HistoryRow(TypedDict):
    """One row of the training history; losses are nats per image, accuracies 0..1."""

    epoch: float  # passes over the training images; a time budget may end within one
    step: int  # optimiser steps since the start
    seconds: float  # training time since the start
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    images_per_second: float


class BestRecord(TypedDict):
    """The epoch whose weights the run keeps, chosen on the validation images."""

    epoch: float
    validation_accuracy: float
    validation_loss: float


class ClassScoreRecord(TypedDict):
    """How one class was recognised; ratios are 0..1."""

    name: str
    support: int
    precision: float
    recall: float
    f1: float


class EvaluationRecord(TypedDict):
    """What ``convatlas.tasks.classify.metrics.Evaluation.to_dict`` writes."""

    n: int
    correct: int
    accuracy: float
    interval: list[float]  # 95 %, low and high
    k: int
    top_k_correct: int
    top_k_accuracy: float
    loss: float
    balanced_accuracy: NotRequired[float]  # this and the next two: of runs since they are kept
    most_frequent: NotRequired[str]
    guessing: NotRequired[float]
    classes: list[str]
    per_class: list[ClassScoreRecord]
    confusion: list[list[int]]  # rows are true classes, columns are answers


class ModelRecord(TypedDict):
    """The network."""

    name: str
    family: str
    year: int | None  # None where no paper describes the network
    paper: str
    parameters: int  # trainable


class DataRecord(TypedDict):
    """The images, as they were split."""

    name: str
    classes: list[str]
    counts: dict[str, int]  # images by split: train, validation and, where there is one, test
    skipped: list[tuple[str, str]]  # (file, why it could not be used)
    fingerprint: str
    split_seed: int


class RunRecord(TypedDict):
    """A whole run, ready to be rendered by :func:`convatlas.reports.page.render_run`."""

    task: Literal["classify"]
    title: str
    run_path: str
    model: ModelRecord
    data: DataRecord
    preprocessing: dict[str, Any]
    recipe: dict[str, Any]  # may be nested
    history: list[HistoryRow]  # empty when training stopped before its first row
    best: BestRecord | None  # None when nothing was validated
    test: EvaluationRecord | None  # None when the data has no test images, or they were not evaluated yet
    validation: NotRequired[EvaluationRecord | None]  # where there are no test images
    environment: dict[str, Any]  # versions and hardware; may be nested
    findings: list[str]  # sentences worth reading first, such as warnings of the health check


class TableRecord(TypedDict):
    """The rows, as they were divided."""

    name: str
    location: str
    fingerprint: str
    label: str | None  # the column of labels
    normal: str | None  # the label of normal rows
    time: str | None  # the column by which rows were divided; None where they were divided at random
    rows: int
    counts: dict[str, int]  # rows by part: fit, validation, calibration and test
    anomalies: int | None  # None without labels
    left_out: int  # rows that are in none of the parts
    split_seed: int
    columns: list[str]  # that the network sees


class ReconstructionHistoryRow(TypedDict):
    """One row of the training history of an autoencoder; losses are mean squared errors."""

    epoch: float
    step: int
    seconds: float
    learning_rate: float
    train_loss: float
    validation_loss: float
    images_per_second: float  # rows


class AnomalyRunRecord(TypedDict):
    """The run of an autoencoder, ready to be rendered by :func:`convatlas.reports.page.render_run`."""

    task: Literal["reconstruct", "reconstruct_images"]
    title: str
    run_path: str
    model: ModelRecord
    data: TableRecord | dict[str, Any]
    preprocessing: dict[str, Any]  # what RowEncoding.model_dump writes, or Preprocessing.model_dump
    recipe: dict[str, Any]
    history: list[ReconstructionHistoryRow]
    best: dict[str, float] | None  # epoch and validation_loss
    test: (
        dict[str, Any] | None
    )  # what AnomalyEvaluation.to_dict writes, and columns, rivals, misses, false_alarm_rows, drift
    environment: dict[str, Any]
    findings: list[str]
    pictures: NotRequired[dict[str, list[str]]]  # of images: of each that ``test`` names, as a ``data:`` address
