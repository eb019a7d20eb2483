"""Where a network sees what it says: functions of a network and an image, on plain hooks of PyTorch."""

from convatlas.explanation.layers import (
    Strongest,
    feature_maps,
    first_filters,
    map_layers,
    strongest,
    target_layer,
)
from convatlas.explanation.methods import (
    METHOD_NAMES,
    METHODS,
    Explanation,
    Method,
    MethodName,
    explain_image,
    known_method,
)

__all__ = [
    "METHODS",
    "METHOD_NAMES",
    "Explanation",
    "Method",
    "MethodName",
    "Strongest",
    "explain_image",
    "feature_maps",
    "first_filters",
    "known_method",
    "map_layers",
    "strongest",
    "target_layer",
]
