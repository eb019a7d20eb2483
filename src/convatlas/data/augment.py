"""Augmentation of whole batches, on the device they are on.

## A flip, a shift or a crop only says which source row and which source column each output row and column shows, so
## any chain of them is two small index tables per image, and one gather moves the pixels once.

Every image gets its own draws. They come from a generator on the CPU, seeded by (seed, epoch, step), for the whole
global batch; a process that holds part of the batch keeps its part. So a batch has the same values on every device,
after a resume, and however many processes share it.

Source for the practice: Krizhevsky, Sutskever & Hinton 2012, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convatlas.data.augmentation import (
    Augmentation,
    ColourJitter,
    Cutout,
    Flip,
    PCAColour,
    RandomResizedCrop,
    Shift,
)
from convatlas.data.statistics import ColourBasis

OUTSIDE = -1  # a row or column that shows no pixel of the image, but the colour of the filling


class Draws:
    """Random numbers for part of a global batch: drawn for all of it, so that the part does not matter.

    >>> whole = Draws(torch.Generator().manual_seed(7), 8, slice(0, 8)).uniform(0, 1)
    >>> part = Draws(torch.Generator().manual_seed(7), 8, slice(4, 6)).uniform(0, 1)
    >>> bool((whole[4:6] == part).all())
    True
    """

    def __init__(self, generator: torch.Generator, total: int, part: slice, device: torch.device | str = "cpu") -> None:
        self._generator = generator
        self._total = total
        self._part = part
        self._device = torch.device(device)

    def uniform(self, low: float, high: float) -> Tensor:
        """One float32 for each image, evenly distributed in [low, high)."""
        drawn = torch.rand(self._total, generator=self._generator)
        return self._own(low + (high - low) * drawn)

    def integers(self, low: int, high: int) -> Tensor:
        """One int64 for each image, low to high, both included."""
        return self._own(torch.randint(low, high + 1, (self._total,), generator=self._generator))

    def normal(self, std: float, size: int) -> Tensor:
        """``size`` float32 for each image, normally distributed around 0."""
        return self._own(std * torch.randn(self._total, size, generator=self._generator))

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn[self._part].to(self._device, non_blocking=True)


def augment(
    images: Tensor, steps: Sequence[Augmentation], crop: int, draws: Draws, colours: ColourBasis | None = None
) -> Tensor:
    """Augmented crops of a batch: uint8 [N, H, W, C] to uint8 [N, crop, crop, C].

    The crop lies anywhere in the image, unless a random resized crop takes its place. The other steps follow in order.

    >>> images = torch.zeros(8, 36, 36, 3, dtype=torch.uint8)
    >>> draws = Draws(torch.Generator().manual_seed(0), total=8, part=slice(0, 8))
    >>> augment(images, [Flip(), Shift(pixels=4)], crop=32, draws=draws).shape
    torch.Size([8, 32, 32, 3])

    Args:
        images: part of the global batch, as ``draws`` knows.
        steps: what to do.
        crop: side of the square that the network sees, at most H and W.
        draws: where randomness comes from.
        colours: of the training images; cutout, PCA colour noise and shifts filled with the mean need them.
    """
    view = _View(images)
    if not any(isinstance(step, RandomResizedCrop) for step in steps):
        view = _random_crop(view, crop, draws)
    for step in steps:
        view = _apply(step, view, crop, draws, colours)
    return view.pixels()


def needs_colours(steps: Sequence[Augmentation]) -> bool:
    """Whether `augment` has to be given the colours of the training images."""
    return any(
        isinstance(step, Cutout | PCAColour) or (isinstance(step, Shift) and step.fill == "mean") for step in steps
    )


@dataclass(frozen=True)
class _View:
    """Images, and which of its rows and columns each of them shows where; None for all, in order."""

    images: Tensor  # [N, H, W, C]
    rows: Tensor | None = None  # [N, h]
    columns: Tensor | None = None  # [N, w]
    filling: Tensor | None = None  # uint8 [C], what is shown where a row or column is OUTSIDE; None if none is

    @property
    def height(self) -> int:
        return self.images.shape[1] if self.rows is None else self.rows.shape[1]

    @property
    def width(self) -> int:
        return self.images.shape[2] if self.columns is None else self.columns.shape[1]

    def showing(self, rows: Tensor | None, columns: Tensor | None, filling: Tensor | None = None) -> _View:
        """Some rows and columns of this view."""
        if self.filling is not None and filling is not None:  # a view has one filling, so the first is painted
            return _View(self.pixels(), rows, columns, filling)
        return _View(
            self.images,
            _through(self.rows, rows),
            _through(self.columns, columns),
            self.filling if filling is None else filling,
        )

    def pixels(self) -> Tensor:
        """What the view shows, uint8 [N, h, w, C]."""
        if self.rows is None and self.columns is None:
            return self.images
        number, height, width, channels = self.images.shape
        device = self.images.device
        rows = torch.arange(height, device=device).expand(number, -1) if self.rows is None else self.rows
        columns = torch.arange(width, device=device).expand(number, -1) if self.columns is None else self.columns
        # Bytes are picked from the flat batch, by the sum of two small tables: where a row begins, and where in it.
        row_starts = torch.arange(0, number * height, height, device=device)[:, None] + rows.clamp_min(0)
        bytes_in_row = columns.clamp_min(0)[:, :, None] * channels + torch.arange(channels, device=device)
        where = (row_starts * width * channels)[:, :, None] + bytes_in_row.flatten(1)[:, None, :]
        shown = self.images.reshape(-1).index_select(0, where.flatten())
        shown = shown.view(number, self.height, self.width, channels)
        if self.filling is not None:
            inside = (rows != OUTSIDE)[:, :, None] & (columns != OUTSIDE)[:, None, :]
            shown = torch.where(inside[..., None], shown, self.filling)
        return shown


def _through(shown: Tensor | None, chosen: Tensor | None) -> Tensor | None:
    """Positions in a view as positions in its images; what is outside stays so."""
    if shown is None or chosen is None:
        return shown if chosen is None else chosen
    return torch.where(chosen == OUTSIDE, OUTSIDE, shown.gather(1, chosen.clamp_min(0)))


def _apply(step: Augmentation, view: _View, crop: int, draws: Draws, colours: ColourBasis | None) -> _View:
    match step:
        case Flip():
            return _flip(view, step, draws)
        case Shift():
            return _shift(view, step, draws, colours)
        case RandomResizedCrop():
            return _View(_random_resized_crop(view.pixels(), step, crop, draws))
        case Cutout():
            return _View(_cutout(view.pixels(), step, draws, colours))
        case PCAColour():
            return _View(_pca_colour(view.pixels(), step, draws, colours))
        case ColourJitter():
            return _View(_colour_jitter(view.pixels(), step, draws))


def _random_crop(view: _View, crop: int, draws: Draws) -> _View:
    if view.height == view.width == crop:
        return view
    window = torch.arange(crop, device=view.images.device)
    top = draws.integers(0, view.height - crop)
    left = draws.integers(0, view.width - crop)
    return view.showing(top[:, None] + window, left[:, None] + window)


def _flip(view: _View, step: Flip, draws: Draws) -> _View:
    mirrored = draws.uniform(0, 1) < step.p
    columns = torch.arange(view.width, device=view.images.device)
    return view.showing(None, torch.where(mirrored[:, None], columns.flip(0), columns))


def _shift(view: _View, step: Shift, draws: Draws, colours: ColourBasis | None) -> _View:
    device = view.images.device
    rows, columns = _shifted(view.height, step, draws, device), _shifted(view.width, step, draws, device)
    match step.fill:
        case "constant":
            return view.showing(rows, columns, view.images.new_zeros(view.images.shape[3]))
        case "mean":
            return view.showing(rows, columns, _mean_colour(colours, device))
        case _:
            return view.showing(rows, columns)


def _shifted(side: int, step: Shift, draws: Draws, device: torch.device) -> Tensor:
    """For each image, which of its ``side`` rows (or columns) each place shows after the shift, [N, side]."""
    distance = step.distance(side)
    positions = torch.arange(side, device=device) - draws.integers(-distance, distance)[:, None]
    match step.fill:
        case "reflect":
            return (side - 1) - ((side - 1) - positions.abs()).abs()
        case "edge":
            return positions.clamp(0, side - 1)
        case "constant" | "mean":
            return torch.where((positions < 0) | (positions >= side), OUTSIDE, positions)


def _random_resized_crop(images: Tensor, step: RandomResizedCrop, crop: int, draws: Draws) -> Tensor:
    """A rectangle that would not fit is narrowed to the image, where torchvision would draw again."""
    height, width = images.shape[1:3]
    area = draws.uniform(*step.scale) * (height * width)
    ratio = draws.uniform(math.log(step.ratio[0]), math.log(step.ratio[1])).exp()
    rows = (area / ratio).sqrt().round().clamp(1, height)
    columns = (area * ratio).sqrt().round().clamp(1, width)
    top = (draws.uniform(0, 1) * (height - rows + 1)).floor()
    left = (draws.uniform(0, 1) * (width - columns + 1)).floor()
    return _to_bytes(resized_crops(images, top, left, rows, columns, crop)).contiguous()


def resized_crops(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
    """One rectangle of each image, resized to a square (bilinear, not antialiased): float32 [N, side, side, C].

    Rows first, then columns: bilinear interpolation along the axes is separable.

    Args:
        images: uint8 [N, H, W, C].
        top, left, height, width: whole numbers, [N] each.
        side: of the result.
    """
    number = torch.arange(len(images), device=images.device)[:, None]
    upper, lower, weight = _neighbours(top, height, side)
    strips = torch.lerp(images[number, upper].float(), images[number, lower].float(), weight[:, :, None, None])
    strips = strips.transpose(1, 2)  # [N, W, side, C]: now columns are picked as rows were
    before, after, weight = _neighbours(left, width, side)
    return torch.lerp(strips[number, before], strips[number, after], weight[:, :, None, None]).transpose(1, 2)


def _neighbours(start: Tensor, size: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``side`` places on a stretch: the pixel before, the pixel after, and how near it is to the second."""
    places = (torch.arange(side, device=start.device) + 0.5) * (size[:, None] / side) - 0.5
    last = size[:, None] - 1
    places = torch.minimum(places.clamp_min(0), last)
    before = places.floor()
    after = torch.minimum(before + 1, last)
    return (start[:, None] + before).long(), (start[:, None] + after).long(), places - before


def _cutout(images: Tensor, step: Cutout, draws: Draws, colours: ColourBasis | None) -> Tensor:
    rows = _covered(images.shape[1], step.size, draws, images.device)
    columns = _covered(images.shape[2], step.size, draws, images.device)
    return torch.where(
        (rows[:, :, None] & columns[:, None, :])[..., None], _mean_colour(colours, images.device), images
    )


def _mean_colour(colours: ColourBasis | None, device: torch.device) -> Tensor:
    return _to_bytes(torch.from_numpy(_known(colours).mean * 255).float()).to(device)


def _covered(side: int, size: int, draws: Draws, device: torch.device) -> Tensor:
    start = draws.integers(0, side - 1)[:, None] - size // 2
    places = torch.arange(side, device=device)
    return (places >= start) & (places < start + size)


def _pca_colour(images: Tensor, step: PCAColour, draws: Draws, colours: ColourBasis | None) -> Tensor:
    basis = _known(colours)
    components = torch.from_numpy(basis.eigenvectors * basis.eigenvalues).float().to(images.device)
    noise = draws.normal(step.std, images.shape[3]) @ components.T  # [N, C], in 0..1
    return _to_bytes(images + 255 * noise[:, None, None, :])


def _colour_jitter(images: Tensor, step: ColourJitter, draws: Draws) -> Tensor:
    colours, alpha = images[..., :3].float() / 255, images[..., 3:]
    if step.brightness:
        colours = (colours * _factor(step.brightness, draws)).clamp(0, 1)
    if step.contrast:
        colours = _blend(colours, _grey(colours).mean(dim=(1, 2), keepdim=True), _factor(step.contrast, draws))
    if step.saturation and colours.shape[3] == 3:
        colours = _blend(colours, _grey(colours), _factor(step.saturation, draws))
    if step.hue and colours.shape[3] == 3:
        colours = turn_hue(colours, draws.uniform(-step.hue, step.hue))
    return torch.cat([_to_bytes(colours * 255), alpha], dim=3)


def _factor(strength: float, draws: Draws) -> Tensor:
    return draws.uniform(max(0.0, 1 - strength), 1 + strength)[:, None, None, None]


def _blend(colours: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(colours), colours, factor).clamp(0, 1)


def _grey(colours: Tensor) -> Tensor:
    if colours.shape[3] == 1:
        return colours
    luma = torch.tensor([0.2989, 0.587, 0.114], device=colours.device)  # ITU-R BT.601
    return (colours * luma).sum(dim=3, keepdim=True)


def turn_hue(colours: Tensor, turn: Tensor) -> Tensor:
    """Colours [N, H, W, 3] in 0..1 with their hue turned by ``turn`` [N], in whole circles.

    Source: Smith 1978, "Color gamut transform pairs", in the closed form f(n) = v - v s max(0, min(k, 4 - k, 1)).
    """
    red, green, blue = colours.unbind(3)
    value = colours.amax(dim=3)
    chroma = value - colours.amin(dim=3)
    safe = chroma.clamp_min(1e-12)  # a grey has no hue: any will do
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = sector + 6 * turn[:, None, None]
    places = (torch.tensor([5.0, 3.0, 1.0], device=colours.device) + sector[..., None]) % 6
    return value[..., None] - chroma[..., None] * torch.minimum(places, 4 - places).clamp(0, 1)


def _known(colours: ColourBasis | None) -> ColourBasis:
    if colours is None:
        raise ValueError(
            "cutout, PCA colour noise and shifts filled with the mean need the colours of the training images"
        )
    return colours


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
