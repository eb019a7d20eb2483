"""Where a network sees what it says: functions of a network and an image, on plain hooks of PyTorch."""

from convatlas.explanation.channels import Channel, Peak, parse_channel, strongest_peaks
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
    "Channel",
    "Explanation",
    "Method",
    "MethodName",
    "Peak",
    "Strongest",
    "explain_image",
    "feature_maps",
    "first_filters",
    "known_method",
    "map_layers",
    "parse_channel",
    "strongest",
    "strongest_peaks",
    "target_layer",
]
