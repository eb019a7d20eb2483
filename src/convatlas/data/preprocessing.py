"""What happens to pixels between the stored image and the network, as data that a run keeps."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from convatlas.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from convatlas.data.dataset import ImageArray

Normalization = Literal["standardize", "unit", "symmetric", "imagenet", "caffe", "mean"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels in 0..1, red, green, blue
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG_MEAN = (123.680, 116.779, 103.939)  # of pixels in 0..255: Simonyan & Zisserman 2014, section 2.1

EVALUATION_PIXELS = 2**21  # 64 feature maps of this many pixels, VGG's first layer, take half a gigabyte

LARGEST_SIDE = 4096  # pixels that a network is shown; one such image is 200 MB of numbers

Constants = tuple[float, tuple[float, ...], tuple[float, ...], Literal["RGB", "BGR"]]
Side = Annotated[int, Field(ge=1, le=2 * LARGEST_SIDE)]


class Preprocessing(BaseModel):
    """From a stored image, uint8 [resize, resize, channels], to the network's input, float32 [channels, crop, crop].

    A pixel becomes ``(pixel * scale - mean) / std``; ``mean`` and ``std`` are in ``channel_order``.

    >>> unit = Preprocessing(channels=3, resize=36, crop=32, scale=1 / 255, mean=(0, 0, 0), std=(1, 1, 1))
    >>> unit.channel_order
    'RGB'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: Literal[1, 3, 4]
    resize: Side
    crop: Side
    scale: Annotated[float, Field(gt=0)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    channel_order: Literal["RGB", "BGR"] = "RGB"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values; received {len(self.mean)} and {len(self.std)}")
        if self.crop > self.resize:
            raise ValueError(f"a crop of {self.crop} cannot be cut from images of {self.resize}")
        if self.channel_order == "BGR" and self.channels != 3:
            raise ValueError(f"BGR needs 3 channels; received {self.channels}")
        return self

    @classmethod
    def named(cls, normalization: Normalization, train: ImageArray, *, crop: int) -> Preprocessing:
        """The preprocessing for some training images by the name of its normalization.

        - ``standardize``: mean 0 and standard deviation 1 for each channel of the training images
        - ``unit``: 0..1
        - ``symmetric``: -1..1, as the weights of Inception and EfficientNet-Lite expect
        - ``imagenet``: 0..1, then ImageNet's mean and standard deviation, as torchvision's weights expect
        - ``caffe``: blue, green, red minus 103.939, 116.779, 123.680, as the published VGG weights expect
        - ``mean``: red, green, blue minus 123.680, 116.779, 103.939

        >>> Preprocessing.named("standardize", dataset.train, crop=32).mean   # doctest: +SKIP
        (0.4914, 0.4822, 0.4465)

        Raises:
            DataError: ImageNet's colours for images that are not red, green and blue.
        """
        resize, _, channels = train.image_shape
        if normalization in ("imagenet", "caffe", "mean") and channels != 3:
            raise DataError(
                f"normalization {normalization!r} is for colour images; received {channels} channels. "
                "Use 'standardize' or 'unit'"
            )
        scale, mean, std, order = _constants(normalization, train)
        return cls(channels=channels, resize=resize, crop=crop, scale=scale, mean=mean, std=std, channel_order=order)

    @property
    def evaluation_batch(self) -> int:
        """How many images to show a network at once outside training: fewer when large, so that memory stays bounded.

        >>> Preprocessing(channels=1, resize=256, crop=224, scale=1, mean=(0,), std=(1,)).evaluation_batch
        41
        """
        return max(1, min(256, EVALUATION_PIXELS // self.crop**2))

    def normalize(self, images: Tensor) -> Tensor:
        """The centre of stored images as the network's input.

        >>> preprocessing.normalize(torch.zeros(8, 36, 36, 3, dtype=torch.uint8)).shape   # doctest: +SKIP
        torch.Size([8, 3, 32, 32])

        Args:
            images: uint8 [N, H, W, C], H and W at least ``crop``; stored images, or the augmented crops of some.

        Returns:
            float32 [N, C, crop, crop], channels last in memory.
        """
        height, width = images.shape[1:3]
        top, left = round((height - self.crop) / 2), round((width - self.crop) / 2)  # as torchvision's CenterCrop
        return self._scaled(self._window(images, top, left))

    def pixels(self, inputs: Tensor) -> NDArray[np.uint8]:
        """Inputs as pictures again, uint8 [N, s, s, C] from [N, C, s, s]; what is no colour becomes the nearest one.

        >>> preprocessing.pixels(preprocessing.normalize(images))   # doctest: +SKIP
        """
        import torch

        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        values = ((inputs * std + mean) / self.scale).round().clamp(0, 255).to(torch.uint8)
        ordered = values.flip(1) if self.channel_order == "BGR" else values
        return ordered.permute(0, 2, 3, 1).contiguous().numpy()

    def ten_crops(self, images: Tensor) -> Tensor:
        """Four corners and the centre, then the same mirrored: float32 [N, 10, C, crop, crop] from uint8 [N, R, R, C].

        Source: Krizhevsky, Sutskever & Hinton 2012, section 4.1; the order is torchvision's ``TenCrop``.
        """
        import torch

        return torch.stack([self._scaled(window) for window in self._ten_windows(images)], dim=1)

    def _ten_windows(self, images: Tensor) -> list[Tensor]:
        far = self.resize - self.crop
        centre = round(far / 2)
        corners = [(0, 0), (0, far), (far, 0), (far, far), (centre, centre)]
        # Mirroring the image and then cutting is torchvision's order: "top left" is of the mirrored image.
        return [self._window(view, top, left) for view in (images, images.flip(2)) for top, left in corners]

    def _window(self, images: Tensor, top: int, left: int) -> Tensor:
        return images[:, top : top + self.crop, left : left + self.crop]

    def _scaled(self, images: Tensor) -> Tensor:
        import torch

        ordered = images.flip(3) if self.channel_order == "BGR" else images
        number, height, width, channels = ordered.shape
        factor, offset = _row_constants(self, width, images.device)
        # A row's constants at once: arithmetic along an axis of three elements would be ten times slower.
        rows = ordered.to(torch.float32).reshape(number, height, width * channels)
        return torch.addcmul(offset, rows, factor).view(number, height, width, channels).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _row_constants(preprocessing: Preprocessing, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and offset for each channel of each pixel in a row, [width * channels]."""
    import torch

    constants = zip(preprocessing.mean, preprocessing.std, strict=True)
    factor_and_offset = torch.tensor(
        [(preprocessing.scale / std, -mean / std) for mean, std in constants], device=device
    )
    factor, offset = factor_and_offset.repeat(width, 1).unbind(1)
    return factor.contiguous(), offset.contiguous()


def _constants(normalization: Normalization, train: ImageArray) -> Constants:
    """What a pixel becomes; for ``standardize`` it depends on the training images."""
    if normalization == "standardize":
        from convatlas.data.statistics import channel_statistics

        mean, std = channel_statistics(train)
        return 1 / 255, mean, tuple(value or 1.0 for value in std), "RGB"  # a constant channel stays constant
    return fixed_constants(normalization, train.image_shape[2])


def fixed_constants(normalization: Normalization, channels: int) -> Constants:
    """Scale, mean, standard deviation and order of the channels of a normalization that is the same for all images.

    >>> fixed_constants("caffe", 3)
    (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 'BGR')
    """
    match normalization:
        case "unit":
            return 1 / 255, (0.0,) * channels, (1.0,) * channels, "RGB"
        case "symmetric":
            return 1 / 127.5, (1.0,) * channels, (1.0,) * channels, "RGB"
        case "imagenet":
            return 1 / 255, IMAGENET_MEAN, IMAGENET_STD, "RGB"
        case "caffe":
            return 1.0, VGG_MEAN[::-1], (1.0,) * 3, "BGR"
        case "mean":
            return 1.0, VGG_MEAN, (1.0,) * 3, "RGB"
        case "standardize":
            raise DataError("normalization 'standardize' depends on the training images")
