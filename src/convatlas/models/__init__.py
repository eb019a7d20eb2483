"""The classic networks, one family a file; importing this registers every one of them."""

from convatlas.models import (  # noqa: I001  (oldest first: the order they are listed in)
    lenet,  # noqa: F401
    alexnet,  # noqa: F401
    nin,  # noqa: F401
    vgg,  # noqa: F401
    googlenet,  # noqa: F401
    inception,  # noqa: F401
    resnet,  # noqa: F401
    densenet,  # noqa: F401
    mobilenet,  # noqa: F401
    cnn5,  # noqa: F401
)
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
