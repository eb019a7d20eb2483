"""From files to batches: catalog -> readers -> audit, cache (decode, splits) -> batches (augment, preprocessing).

Everything up to the decoded array does without torch.
"""

from convatlas.data.cache import prepare
from convatlas.data.catalog import list_sources, open_source
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.source import Source

__all__ = ["Dataset", "ImageArray", "Source", "list_sources", "open_source", "prepare"]
