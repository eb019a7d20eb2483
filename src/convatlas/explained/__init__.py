"""What a run sees in pictures, and what its images say about it: prepared, looked at, drawn, on one page."""

from convatlas.explained.channels import ExcitingImage, exciting_images
from convatlas.explained.features_map import FeaturesMap, map_features
from convatlas.explained.nearest import NearImage, nearest_images
from convatlas.explained.pictures import Explained, explain_file, seen_square
from convatlas.explained.written import ExplainedFiles, OfData, explain_files

__all__ = [
    "ExcitingImage",
    "Explained",
    "ExplainedFiles",
    "FeaturesMap",
    "NearImage",
    "OfData",
    "exciting_images",
    "explain_file",
    "explain_files",
    "map_features",
    "nearest_images",
    "seen_square",
]
