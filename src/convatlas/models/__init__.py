"""The classic networks, one family a file; importing this registers every one of them."""

from convatlas.models import lenet, alexnet, vgg, cnn5  # noqa: F401, I001  (oldest first: the order they are listed in)
from convatlas.models.contract import Classifier, Tap, TrainingOutput
from convatlas.models.registry import (
    ModelDescription,
    ModelEntry,
    Published,
    create_model,
    describe_models,
    list_models,
    model_entry,
    outline_model,
)

__all__ = [
    "Classifier",
    "ModelDescription",
    "ModelEntry",
    "Published",
    "Tap",
    "TrainingOutput",
    "create_model",
    "describe_models",
    "list_models",
    "model_entry",
    "outline_model",
]
