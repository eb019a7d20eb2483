"""The classic networks, and autoencoders of rows; one family a file; importing this registers every one of them."""

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
    autoencoders,  # noqa: F401
)
from convatlas.models.contract import Autoencoder, Classifier, ReconstructionOutput, Tap, TrainingOutput
from convatlas.models.registry import (
    AutoencoderDescription,
    AutoencoderEntry,
    ModelDescription,
    ModelEntry,
    Published,
    autoencoder_entry,
    create_autoencoder,
    create_model,
    describe_autoencoders,
    describe_models,
    find_entry,
    list_models,
    model_entry,
    outline_autoencoder,
    outline_model,
)

__all__ = [
    "Autoencoder",
    "AutoencoderDescription",
    "AutoencoderEntry",
    "Classifier",
    "ModelDescription",
    "ModelEntry",
    "Published",
    "ReconstructionOutput",
    "Tap",
    "TrainingOutput",
    "autoencoder_entry",
    "create_autoencoder",
    "create_model",
    "describe_autoencoders",
    "describe_models",
    "find_entry",
    "list_models",
    "model_entry",
    "outline_autoencoder",
    "outline_model",
]
