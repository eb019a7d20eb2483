"""Name -> network: the list of everything ``create_model`` can make, and what is known of each without making it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, TypeVar, get_args

import torch
from torch import nn

from convatlas.errors import ConvatlasError, ImageSizeError, UnknownNameError, unknown_name
from convatlas.models.contract import Classifier, ImageAutoencoder, RowAutoencoder
from convatlas.models.counts import Counts, shipped_counts
from convatlas.models.settings import Setting

TaskName = Literal["classify", "reconstruct", "reconstruct_images"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
Network = TypeVar("Network", Classifier, RowAutoencoder, ImageAutoencoder)

MOST_COLUMNS = 1_000_000  # that an autoencoder is made for: its weights then take gigabytes


class Builder(Protocol):
    """Makes a network of the size asked for, its weights not yet initialised."""

    def __call__(self, *, num_classes: int, in_channels: int, image_size: int) -> Classifier:  # noqa: D102
        ...


class AutoencoderBuilder(Protocol):
    """Makes an autoencoder of that many columns with these settings, its weights not yet initialised."""

    def __call__(self, *, columns: int, **settings: Setting) -> RowAutoencoder:  # noqa: D102
        ...


class ImageAutoencoderBuilder(Protocol):
    """Makes an autoencoder of images of that size with these settings, its weights not yet initialised."""

    def __call__(self, *, in_channels: int, image_size: int, **settings: Setting) -> ImageAutoencoder:  # noqa: D102
        ...


@dataclass(frozen=True)
class Published:
    """An accuracy that somebody has published: top-1, in percent; the source says if of several crops."""

    accuracy: float
    data: str  # "ImageNet", "CIFAR-10"
    source: str  # "torchvision's weights", "He et al. 2015, Table 6"


@dataclass(frozen=True)
class Paper:
    """Where networks come from, and what was new in them."""

    family: str
    year: int
    citation: str
    brought: str


@dataclass(frozen=True)
class ModelEntry:
    """One registered network. Sizes are sides of square images, in pixels."""

    name: str
    family: str
    year: int | None  # None: no paper, no date
    paper: str
    image_size: int
    in_channels: int
    num_classes: int
    minimum_size: int
    minimum_reason: str  # completes "needs images of at least 32x32 (...)"
    recipe: str  # name of the training recipe it takes when none is given
    build: Builder
    brought: str  # what was new in it, in a sentence or two
    published: Published | None = None


@dataclass(frozen=True)
class AutoencoderEntry:
    """One registered autoencoder of rows."""

    name: str
    family: str
    year: int | None
    paper: str
    columns: int  # of the rows it is made for when nothing is said
    settings: Mapping[str, Setting]  # everything that may be set about it, as it is when nothing is said
    recipe: str  # name of the training recipe it takes when none is given
    build: AutoencoderBuilder
    brought: str


@dataclass(frozen=True)
class ImageAutoencoderEntry:
    """One registered autoencoder of images. Sizes are sides of square images, in pixels."""

    name: str
    family: str
    year: int | None
    paper: str
    image_size: int
    in_channels: int
    minimum_size: int
    minimum_reason: str  # completes "needs images of at least 8x8 (...)"
    settings: Mapping[str, Setting]  # everything that may be set about it, as it is when nothing is said
    recipe: str  # name of the training recipe it takes when none is given
    build: ImageAutoencoderBuilder
    brought: str


Entry = ModelEntry | AutoencoderEntry | ImageAutoencoderEntry


class ModelDescription(TypedDict):
    """What ``convatlas models --json`` prints of a classifier, built at its own size."""

    task: Literal["classify"]
    name: str
    family: str
    year: int | None
    paper: str
    image_size: int
    minimum_size: int
    in_channels: int
    num_classes: int
    parameters: int
    auxiliary_parameters: int
    buffers: int
    macs: int
    published: PublishedDescription | None
    recipe: str


class PublishedDescription(TypedDict):
    """A published accuracy: top-1, in percent."""

    accuracy: float
    data: str
    source: str


class AutoencoderDescription(TypedDict):
    """What ``convatlas models --json`` prints of an autoencoder, built for its own number of columns."""

    task: Literal["reconstruct"]
    name: str
    family: str
    year: int | None
    paper: str
    columns: int
    parameters: int
    auxiliary_parameters: int
    buffers: int
    macs: int
    settings: dict[str, Setting]
    recipe: str


class ImageAutoencoderDescription(TypedDict):
    """What ``convatlas models --json`` prints of an autoencoder of images, built at its own size."""

    task: Literal["reconstruct_images"]
    name: str
    family: str
    year: int | None
    paper: str
    image_size: int
    minimum_size: int
    in_channels: int
    parameters: int
    auxiliary_parameters: int
    buffers: int
    macs: int
    settings: dict[str, Setting]
    recipe: str


_ENTRIES: dict[str, ModelEntry] = {}
_AUTOENCODERS: dict[str, AutoencoderEntry] = {}
_IMAGE_AUTOENCODERS: dict[str, ImageAutoencoderEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a network to the registry; a family's file does this when it is imported."""
    _refuse_taken(entry.name)
    _ENTRIES[entry.name] = entry


def register_autoencoder(entry: AutoencoderEntry) -> None:
    """Add an autoencoder to the registry, as ``register`` does a classifier."""
    _refuse_taken(entry.name)
    _AUTOENCODERS[entry.name] = entry


def register_image_autoencoder(entry: ImageAutoencoderEntry) -> None:
    """Add an autoencoder of images to the registry, as ``register`` does a classifier."""
    _refuse_taken(entry.name)
    _IMAGE_AUTOENCODERS[entry.name] = entry


def _every_entry(task: TaskName | None = None) -> dict[str, Entry]:
    """All entries by name, or those of one task."""
    of_task: dict[TaskName, Mapping[str, Entry]] = {
        "classify": _ENTRIES,
        "reconstruct": _AUTOENCODERS,
        "reconstruct_images": _IMAGE_AUTOENCODERS,
    }
    chosen = TASKS if task is None else (task,)
    return {name: entry for each in chosen for name, entry in of_task[each].items()}


def _refuse_taken(name: str) -> None:
    if name in _every_entry():
        raise ValueError(f"two models are named {name!r}")


def find_entry(name: str) -> Entry:
    """What the registry knows of a network, whatever its task.

    >>> find_entry("autoencoder_deep").recipe
    'autoencoder'

    Raises:
        UnknownNameError: no network has that name; the nearest are named.
    """
    every = _every_entry()
    if name not in every:
        raise unknown_name("model", name, every, see="convatlas models")
    return every[name]


def model_entry(name: str) -> ModelEntry:
    """What the registry knows of a classifier.

    >>> model_entry("vgg16").paper
    'Simonyan & Zisserman 2014, arXiv 1409.1556'

    Raises:
        UnknownNameError: no classifier has that name; the nearest are named.
    """
    found = find_entry(name)
    if isinstance(found, ModelEntry):
        return found
    raise UnknownNameError(f"{name} is {_kind(found)}, and what is wanted here is a classifier of images")


def autoencoder_entry(name: str) -> AutoencoderEntry:
    """What the registry knows of an autoencoder of rows.

    >>> autoencoder_entry("autoencoder_sparse").settings
    {'activation': 'relu', 'sparsity': 3e-05}

    Raises:
        UnknownNameError: no autoencoder of rows has that name; the nearest are named.
    """
    found = _every_entry().get(name)
    if isinstance(found, AutoencoderEntry):
        return found
    raise _no_such("autoencoder", name, found, "an autoencoder of rows", _AUTOENCODERS)


def image_autoencoder_entry(name: str) -> ImageAutoencoderEntry:
    """What the registry knows of an autoencoder of images.

    >>> image_autoencoder_entry("autoencoder_dense_latent").settings
    {'activation': 'relu', 'code': 64}

    Raises:
        UnknownNameError: no autoencoder of images has that name; the nearest are named.
    """
    found = _every_entry().get(name)
    if isinstance(found, ImageAutoencoderEntry):
        return found
    raise _no_such("autoencoder of images", name, found, "an autoencoder of images", _IMAGE_AUTOENCODERS)


def _no_such(kind: str, name: str, found: Entry | None, wanted: str, known: Mapping[str, Any]) -> UnknownNameError:
    if found is None:
        return unknown_name(kind, name, known)
    return UnknownNameError(f"{name} is {_kind(found)}, and what is wanted here is {wanted}")


def _kind(entry: Entry) -> str:
    if isinstance(entry, ModelEntry):
        return "a classifier of images"
    return "an autoencoder of rows" if isinstance(entry, AutoencoderEntry) else "an autoencoder of images"


def list_models(family: str | None = None, *, task: TaskName | None = "classify") -> list[str]:
    """The registered names, oldest family first: one task's, all of them (``task=None``), or one family's.

    >>> list_models("alexnet")
    ['alexnet_2012', 'alexnet', 'alexnet_mnist']
    >>> list_models(task="reconstruct")[:2]
    ['autoencoder_plain', 'autoencoder_deep']
    >>> list_models(task="reconstruct_images")
    ['autoencoder_convolutional', 'autoencoder_dense_latent']

    A family has one task, so that its name is enough.

    Raises:
        UnknownNameError: no family or no task has that name.
    """
    if task is not None and task not in TASKS:
        raise unknown_name("task", str(task), TASKS)
    if family is None:
        return list(_every_entry(task))
    every = _every_entry()
    families = {entry.family for entry in every.values()}
    if family not in families:
        raise unknown_name("model family", family, families)
    return [name for name, entry in every.items() if entry.family == family]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
) -> Classifier:
    """A network with fresh weights, ready to train.

    What is left out is the network's own (``model_entry(name)``). With ``seed`` the weights are always the same and
    torch's random state is as it was before.

    >>> model = create_model("vgg11_bn_cifar", num_classes=7, image_size=64, seed=0)
    >>> model(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 7])

    Raises:
        UnknownNameError: no network has that name; the nearest are named.
        ImageSizeError: the network cannot take images that small; says the smallest, and which networks can.
        ConvatlasError: a number of classes or channels below 1.
    """
    model = outline_model(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return _with_fresh_weights(model, seed)


def outline_model(
    name: str, *, num_classes: int | None = None, in_channels: int | None = None, image_size: int | None = None
) -> Classifier:
    """A network on torch's meta device: every shape, and no memory for weights.

    Saved weights go in without the cost of initialising what they replace:

    >>> model = outline_model("lenet5")
    >>> weights = create_model("lenet5").state_dict()
    >>> model.load_state_dict(weights, assign=True)
    <All keys matched successfully>

    Raises:
        UnknownNameError, ImageSizeError, ConvatlasError: as ``create_model``.
    """
    entry = model_entry(name)
    size = entry.image_size if image_size is None else image_size
    classes = entry.num_classes if num_classes is None else num_classes
    channels = entry.in_channels if in_channels is None else in_channels
    _check_size(entry, size)
    _check_positive(name, "num_classes", classes)
    _check_positive(name, "in_channels", channels)
    with torch.device("meta"):
        model = entry.build(num_classes=classes, in_channels=channels, image_size=size)
    model.registered_as = name
    return model


def create_autoencoder(
    name: str, *, columns: int | None = None, seed: int | None = None, **settings: Setting
) -> RowAutoencoder:
    """An autoencoder of rows with fresh weights, ready to train.

    What is left out is the network's own (``autoencoder_entry(name)``). With ``seed`` the weights are always the same
    and torch's random state is as it was before.

    >>> model = create_autoencoder("autoencoder_denoising", columns=12, corruption_rate=0.5, seed=0)
    >>> model.eval()(torch.zeros(2, 12)).shape
    torch.Size([2, 12])
    >>> rebuilt, penalty = model.train()(torch.zeros(2, 12))

    Args:
        name: a registered autoencoder.
        columns: of the rows, as the network sees them.
        seed: of the weights.
        settings: what else may be said of it; ``autoencoder_entry(name).settings`` has the names.

    Raises:
        UnknownNameError: no autoencoder, or none of its settings, has that name; the nearest are named.
        ConvatlasError: a number of columns or a setting that is out of range.
    """
    return _with_fresh_weights(outline_autoencoder(name, columns=columns, **settings), seed)


def outline_autoencoder(name: str, *, columns: int | None = None, **settings: Setting) -> RowAutoencoder:
    """An autoencoder of rows on torch's meta device: every shape, and no memory for weights.

    >>> sum(weights.numel() for weights in outline_autoencoder("autoencoder_deep").parameters())
    11269

    Raises:
        UnknownNameError, ConvatlasError: as ``create_autoencoder``.
    """
    entry = autoencoder_entry(name)
    width = entry.columns if columns is None else columns
    _check_positive(name, "columns", width)
    if width > MOST_COLUMNS:
        raise ConvatlasError(f"{name} takes at most {MOST_COLUMNS:,} columns; received {width:,}")
    _check_settings(entry, settings)
    with torch.device("meta"):
        return entry.build(columns=width, **{**entry.settings, **settings})


def create_image_autoencoder(
    name: str,
    *,
    in_channels: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    **settings: Setting,
) -> ImageAutoencoder:
    """An autoencoder of images with fresh weights, ready to train; arguments and errors as of ``create_autoencoder``.

    >>> model = create_image_autoencoder("autoencoder_dense_latent", in_channels=1, image_size=28, code=32, seed=0)
    >>> model.eval()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])

    Raises:
        ImageSizeError: the network cannot take images that small.
    """
    model = outline_image_autoencoder(name, in_channels=in_channels, image_size=image_size, **settings)
    return _with_fresh_weights(model, seed)


def outline_image_autoencoder(
    name: str, *, in_channels: int | None = None, image_size: int | None = None, **settings: Setting
) -> ImageAutoencoder:
    """An autoencoder of images on torch's meta device: every shape, and no memory for weights.

    >>> outline_image_autoencoder("autoencoder_convolutional").taps["code"].shape
    (16, 8, 8)

    Raises:
        UnknownNameError, ImageSizeError, ConvatlasError: as ``create_image_autoencoder``.
    """
    entry = image_autoencoder_entry(name)
    size = entry.image_size if image_size is None else image_size
    channels = entry.in_channels if in_channels is None else in_channels
    _check_size(entry, size)
    _check_positive(name, "in_channels", channels)
    _check_settings(entry, settings)
    with torch.device("meta"):
        return entry.build(in_channels=channels, image_size=size, **{**entry.settings, **settings})


def _check_settings(entry: AutoencoderEntry | ImageAutoencoderEntry, settings: Mapping[str, Setting]) -> None:
    for setting in settings:
        if setting not in entry.settings:
            raise unknown_name(f"setting of {entry.name}", setting, entry.settings)


def describe_models(family: str | None = None) -> list[ModelDescription]:
    """What is known of each classifier at its own size; nothing is built.

    >>> describe_models("lenet")[0]["parameters"]
    60000

    ``parameters`` are the trainable ones that a prediction uses, ``auxiliary_parameters`` those of heads that only help
    in training; ``buffers`` the floating-point numbers that come with them and are not trained (running means and
    variances of batch normalisation, LeNet-5's output codes); ``macs`` the multiply-adds of one image.
    """
    return [_describe(_ENTRIES[name], _counts_of(name)) for name in list_models(family) if name in _ENTRIES]


def describe_autoencoders(family: str | None = None) -> list[AutoencoderDescription]:
    """What is known of each autoencoder with its own number of columns; nothing is built.

    >>> describe_autoencoders()[0]["parameters"]
    2389

    ``macs`` are the multiply-adds of one row; the others as in ``describe_models``.
    """
    names = list_models(family, task="reconstruct")
    return [_describe_autoencoder(_AUTOENCODERS[name], _counts_of(name)) for name in names if name in _AUTOENCODERS]


def describe_image_autoencoders(family: str | None = None) -> list[ImageAutoencoderDescription]:
    """What is known of each autoencoder of images at its own size; nothing is built.

    >>> describe_image_autoencoders()[1]["name"]
    'autoencoder_dense_latent'

    ``macs`` are the multiply-adds of one image; the others as in ``describe_models``.
    """
    names = list_models(family, task="reconstruct_images")
    chosen = [_IMAGE_AUTOENCODERS[name] for name in names if name in _IMAGE_AUTOENCODERS]
    return [_describe_image_autoencoder(entry, _counts_of(entry.name)) for entry in chosen]


def _counts_of(name: str) -> Counts:
    counts = shipped_counts()
    if name not in counts:
        raise ConvatlasError(f"{name} is not in models/counts.json; write it anew as CONTRIBUTING.md says")
    return counts[name]


def _describe(entry: ModelEntry, counts: Counts) -> ModelDescription:
    return ModelDescription(
        task="classify",
        name=entry.name,
        family=entry.family,
        year=entry.year,
        paper=entry.paper,
        image_size=entry.image_size,
        minimum_size=entry.minimum_size,
        in_channels=entry.in_channels,
        num_classes=entry.num_classes,
        **counts,
        published=_describe_published(entry.published),
        recipe=entry.recipe,
    )


def _describe_autoencoder(entry: AutoencoderEntry, counts: Counts) -> AutoencoderDescription:
    return AutoencoderDescription(
        task="reconstruct",
        name=entry.name,
        family=entry.family,
        year=entry.year,
        paper=entry.paper,
        columns=entry.columns,
        **counts,
        settings=dict(entry.settings),
        recipe=entry.recipe,
    )


def _describe_image_autoencoder(entry: ImageAutoencoderEntry, counts: Counts) -> ImageAutoencoderDescription:
    return ImageAutoencoderDescription(
        task="reconstruct_images",
        name=entry.name,
        family=entry.family,
        year=entry.year,
        paper=entry.paper,
        image_size=entry.image_size,
        minimum_size=entry.minimum_size,
        in_channels=entry.in_channels,
        **counts,
        settings=dict(entry.settings),
        recipe=entry.recipe,
    )


def _describe_published(published: Published | None) -> PublishedDescription | None:
    if published is None:
        return None
    return PublishedDescription(accuracy=published.accuracy, data=published.data, source=published.source)


def _with_fresh_weights(model: Network, seed: int | None) -> Network:
    _take_memory(model)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
        model.initialize()
    return model


def _take_memory(model: nn.Module) -> None:
    """Give an outlined network memory: what ``to_empty`` does, without half a second of imports at every start."""
    # to_empty asks for empty_like of a meta tensor, for which torch imports sympy
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))  # type: ignore[no-untyped-call]


def _check_size(entry: ModelEntry | ImageAutoencoderEntry, size: int) -> None:
    if size >= entry.minimum_size:
        return
    nearest = _nearest_able(entry, size) if isinstance(entry, ModelEntry) else None
    instead = f", or {nearest.name}" if nearest else ""
    raise ImageSizeError(
        f"{entry.name} needs images of at least {entry.minimum_size}x{entry.minimum_size} ({entry.minimum_reason}); "
        f"received {size}x{size}. Use --image-size {entry.minimum_size}{instead}"
    )


def _nearest_able(entry: ModelEntry, size: int) -> ModelEntry | None:
    """Another classifier, that can take such small images."""
    able = [other for other in _ENTRIES.values() if other.minimum_size <= size]
    return min(able, key=lambda other: _distance(entry, other, size), default=None)


def _distance(wanted: ModelEntry, other: ModelEntry, size: int) -> tuple[bool, bool, int]:
    """How far another network is from the one wanted: by family, then by channels, then by the size it is made for."""
    return (other.family != wanted.family, other.in_channels != wanted.in_channels, abs(other.image_size - size))


def _check_positive(name: str, what: str, received: int) -> None:
    if received < 1:
        raise ConvatlasError(f"{name} needs {what} of at least 1; received {received}")
