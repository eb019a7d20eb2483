"""The classic networks, and autoencoders of rows and of images; one family a file; importing this registers all."""

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
    efficientnet,  # noqa: F401
    cnn5,  # noqa: F401
    autoencoders,  # noqa: F401
    image_autoencoders,  # noqa: F401
)
from convatlas.models.contract import (
    Autoencoder,
    Classifier,
    ImageAutoencoder,
    ReconstructionOutput,
    RowAutoencoder,
    Tap,
    TrainingOutput,
)
from convatlas.models.registry import (
    outline_image_autoencoder,
    image_autoencoder_entry,
    describe_image_autoencoders,
    create_image_autoencoder,
    Entry,
    ImageAutoencoderEntry,
    ImageAutoencoderDescription,
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
    "Entry",
    "ImageAutoencoder",
    "ImageAutoencoderDescription",
    "ImageAutoencoderEntry",
    "ModelDescription",
    "ModelEntry",
    "Published",
    "ReconstructionOutput",
    "RowAutoencoder",
    "Tap",
    "TrainingOutput",
    "autoencoder_entry",
    "create_autoencoder",
    "create_image_autoencoder",
    "create_model",
    "describe_autoencoders",
    "describe_image_autoencoders",
    "describe_models",
    "find_entry",
    "image_autoencoder_entry",
    "list_models",
    "model_entry",
    "outline_autoencoder",
    "outline_image_autoencoder",
    "outline_model",
]
