"""A run: the directory a training leaves, self-contained and safe to open from a stranger; one file a task."""

from convatlas.runs.anomalies import AnomalyRun
from convatlas.runs.autoencoder import AutoencoderRun
from convatlas.runs.cards import (
    AutoencoderCard,
    BaselineCard,
    Card,
    ClassificationCard,
    CodeCard,
    DataCard,
    GoodImagesCard,
    ImageAutoencoderCard,
    ImageReconstructionCard,
    ModelCard,
    ReconstructionCard,
    TableCard,
    ThresholdCard,
    WeightsCard,
)
from convatlas.runs.classifier import ClassifierRun
from convatlas.runs.environment import describe_environment, timestamp
from convatlas.runs.image_autoencoder import ImageAutoencoderRun
from convatlas.runs.image_classifier import ImageClassifier
from convatlas.runs.run import Run, list_runs, refuse_taken

__all__ = [
    "AnomalyRun",
    "AutoencoderCard",
    "AutoencoderRun",
    "BaselineCard",
    "Card",
    "ClassificationCard",
    "ClassifierRun",
    "CodeCard",
    "DataCard",
    "GoodImagesCard",
    "ImageAutoencoderCard",
    "ImageAutoencoderRun",
    "ImageClassifier",
    "ImageReconstructionCard",
    "ModelCard",
    "ReconstructionCard",
    "Run",
    "TableCard",
    "ThresholdCard",
    "WeightsCard",
    "describe_environment",
    "list_runs",
    "refuse_taken",
    "timestamp",
]
