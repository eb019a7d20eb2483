"""Name -> network: the list of everything ``create_model`` can make, and what is known of each without making it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, TypeVar

import torch

from convatlas.errors import ConvatlasError, ImageSizeError, UnknownNameError, unknown_name
from convatlas.models.contract import Autoencoder, Classifier, Setting
from convatlas.models.counts import Counts, shipped_counts

TaskName = Literal["classify", "reconstruct"]
Network = TypeVar("Network", Classifier, Autoencoder)

MOST_COLUMNS = 1_000_000  # that an autoencoder is made for: its weights then take gigabytes


class Builder(Protocol):
    """Makes a network of the size asked for, its weights not yet initialised."""

    def __call__(self, *, num_classes: int, in_channels: int, image_size: int) -> Classifier:  # noqa: D102
        ...


class AutoencoderBuilder(Protocol):
    """Makes an autoencoder of that many columns with these settings, its weights not yet initialised."""

    def __call__(self, *, columns: int, **settings: Setting) -> Autoencoder:  # noqa: D102
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


_ENTRIES: dict[str, ModelEntry] = {}
_AUTOENCODERS: dict[str, AutoencoderEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a network to the registry; a family's file does this when it is imported."""
    _refuse_taken(entry.name)
    _ENTRIES[entry.name] = entry


def register_autoencoder(entry: AutoencoderEntry) -> None:
    """Add an autoencoder to the registry, as ``register`` does a classifier."""
    _refuse_taken(entry.name)
    _AUTOENCODERS[entry.name] = entry


def _refuse_taken(name: str) -> None:
    if name in _ENTRIES or name in _AUTOENCODERS:
        raise ValueError(f"two models are named {name!r}")


def find_entry(name: str) -> ModelEntry | AutoencoderEntry:
    """What the registry knows of a network, whatever its task.

    >>> find_entry("autoencoder_deep").recipe
    'autoencoder'

    Raises:
        UnknownNameError: no network has that name; the nearest are named.
    """
    found = _ENTRIES.get(name) or _AUTOENCODERS.get(name)
    if found is None:
        raise unknown_name("model", name, [*_ENTRIES, *_AUTOENCODERS], see="convatlas models")
    return found


def model_entry(name: str) -> ModelEntry:
    """What the registry knows of a classifier.

    >>> model_entry("vgg16").paper
    'Simonyan & Zisserman 2014, arXiv 1409.1556'

    Raises:
        UnknownNameError: no classifier has that name; the nearest are named.
    """
    found = find_entry(name)
    if isinstance(found, AutoencoderEntry):
        raise UnknownNameError(f"{name} is an autoencoder of rows, and what is wanted here is a classifier of images")
    return found


def autoencoder_entry(name: str) -> AutoencoderEntry:
    """What the registry knows of an autoencoder.

    >>> autoencoder_entry("autoencoder_sparse").settings
    {'activation': 'relu', 'sparsity': 3e-05}

    Raises:
        UnknownNameError: no autoencoder has that name; the nearest are named.
    """
    if name in _ENTRIES:
        raise UnknownNameError(f"{name} is a classifier of images, and what is wanted here is an autoencoder of rows")
    if name not in _AUTOENCODERS:
        raise unknown_name("autoencoder", name, _AUTOENCODERS)
    return _AUTOENCODERS[name]


def list_models(family: str | None = None, *, task: TaskName | None = "classify") -> list[str]:
    """The registered names, oldest family first: one task's, all of them (``task=None``), or one family's.

    >>> list_models("alexnet")
    ['alexnet_2012', 'alexnet', 'alexnet_mnist']
    >>> list_models(task="reconstruct")[:2]
    ['autoencoder_plain', 'autoencoder_deep']

    A family has one task, so that its name is enough.

    Raises:
        UnknownNameError: no family or no task has that name.
    """
    if task not in (None, "classify", "reconstruct"):
        raise unknown_name("task", str(task), ("classify", "reconstruct"))
    every: dict[str, ModelEntry | AutoencoderEntry] = {**_ENTRIES, **_AUTOENCODERS}
    if family is None:
        return [*(_ENTRIES if task != "reconstruct" else ()), *(_AUTOENCODERS if task != "classify" else ())]
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
        return entry.build(num_classes=classes, in_channels=channels, image_size=size)


def create_autoencoder(
    name: str, *, columns: int | None = None, seed: int | None = None, **settings: Setting
) -> Autoencoder:
    """An autoencoder with fresh weights, ready to train.

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


def outline_autoencoder(name: str, *, columns: int | None = None, **settings: Setting) -> Autoencoder:
    """An autoencoder on torch's meta device: every shape, and no memory for weights.

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
    for setting in settings:
        if setting not in entry.settings:
            raise unknown_name(f"setting of {name}", setting, entry.settings)
    with torch.device("meta"):
        return entry.build(columns=width, **{**entry.settings, **settings})


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


def _take_memory(model: Classifier | Autoencoder) -> None:
    """Give an outlined network memory: what ``to_empty`` does, without half a second of imports at every start."""
    # to_empty asks for empty_like of a meta tensor, for which torch imports sympy
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))  # type: ignore[no-untyped-call]


def _check_size(entry: ModelEntry, size: int) -> None:
    if size >= entry.minimum_size:
        return
    able = [other for other in _ENTRIES.values() if other.minimum_size <= size]
    nearest = min(able, key=lambda other: _distance(entry, other, size), default=None)
    instead = f", or {nearest.name}" if nearest else ""
    raise ImageSizeError(
        f"{entry.name} needs images of at least {entry.minimum_size}x{entry.minimum_size} ({entry.minimum_reason}); "
        f"received {size}x{size}. Use --image-size {entry.minimum_size}{instead}"
    )


def _distance(wanted: ModelEntry, other: ModelEntry, size: int) -> tuple[bool, bool, int]:
    """How far another network is from the one wanted: by family, then by channels, then by the size it is made for."""
    return (other.family != wanted.family, other.in_channels != wanted.in_channels, abs(other.image_size - size))


def _check_positive(name: str, what: str, received: int) -> None:
    if received < 1:
        raise ConvatlasError(f"{name} needs {what} of at least 1; received {received}")
