"""convatlas: the classic networks of vision, and autoencoders that find what is unusual, made real.

>>> import convatlas
>>> run = convatlas.train("lenet5", data="digits", image_size=28)  # doctest: +SKIP
>>> convatlas.load(run.path).predict("seven.png")  # doctest: +SKIP

Importing this package is cheap: torch is loaded at the first use of a name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convatlas.api import evaluate, explain, inspect, load, resume, train
    from convatlas.data import open_source
    from convatlas.detector import AutoencoderDetector
    from convatlas.errors import ConvatlasError
    from convatlas.explained import Explained
    from convatlas.inspection import Inspection
    from convatlas.models import Classifier, create_autoencoder, create_model, list_models
    from convatlas.runs import Run
    from convatlas.tasks.classify.metrics import Evaluation
    from convatlas.tasks.classify.task import Prediction
    from convatlas.training.recipe import Recipe, list_recipes, load_recipe
    from convatlas.weights import LoadReport, PretrainedClassifier, load_weights

__all__ = [
    "AutoencoderDetector",
    "Classifier",
    "ConvatlasError",
    "Evaluation",
    "Explained",
    "Inspection",
    "LoadReport",
    "Prediction",
    "PretrainedClassifier",
    "Recipe",
    "Run",
    "create_autoencoder",
    "create_model",
    "evaluate",
    "explain",
    "inspect",
    "list_models",
    "list_recipes",
    "load",
    "load_recipe",
    "load_weights",
    "open_source",
    "resume",
    "train",
]

_HOMES = {
    "AutoencoderDetector": "detector",
    "Classifier": "models",
    "ConvatlasError": "errors",
    "Evaluation": "tasks.classify.metrics",
    "Explained": "explained",
    "Inspection": "inspection",
    "LoadReport": "weights",
    "Prediction": "tasks.classify.task",
    "PretrainedClassifier": "weights",
    "Recipe": "training.recipe",
    "Run": "runs",
    "create_autoencoder": "models",
    "create_model": "models",
    "evaluate": "api",
    "explain": "api",
    "inspect": "api",
    "list_models": "models",
    "list_recipes": "training.recipe",
    "load": "api",
    "load_recipe": "training.recipe",
    "load_weights": "weights",
    "open_source": "data",
    "resume": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convatlas' has no attribute {name!r}")
    return getattr(import_module(f"convatlas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
