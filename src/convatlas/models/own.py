"""A network of one's own: a Python file with a function that makes a module, as a classifier like the registered ones.

The file's text is all that is run, wherever it lies: what it defines it must define itself, or import from installed
packages. So a copy of it in a run makes the same network, and nothing that lies beside a copy is ever imported.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from convatlas.errors import NetworkCodeError
from convatlas.files import read_regular
from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry

MOST_CODE_BYTES = 2**20
SIZES = {"num_classes": 10, "in_channels": 3, "image_size": 224}  # what a function may ask for, else what is assumed
WITH_BATCH_NORM, WITHOUT = "vgg-bn", "cnn5"  # recipes


class Code(NamedTuple):
    """A file's text, and which of its functions makes a network."""

    text: bytes
    factory: str
    place: str  # in words, for messages

    @property
    def sha256(self) -> str:
        """Of the text: what a run's copy is held against."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def identity(self) -> str:
        """What a person trusts: this text, and that this function of it is called and no other."""
        return hashlib.sha256(self.text + b"\0" + self.factory.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class OwnEntry(ModelEntry):
    """A network that a person has written: made by their code, with the weights it gives itself."""

    code: Code
    fixed_channels: int | None = None  # where the function is not told how many, and no lazy layer takes any


class OwnClassifier(Classifier):
    """Any module that gives logits, as a classifier: its layers are found by showing it one blank image.

    >>> network = OwnClassifier(
    ...     nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)),
    ...     place="net.py:make",
    ...     num_classes=2,
    ...     in_channels=1,
    ...     image_size=8,
    ... )
    >>> network.taps["0"]
    Tap(module='network.0', shape=(4, 6, 6))
    >>> network.output_names
    ('network.3',)

    Its output layer is the last dense or convolutional one that answers with a number for each class; where none does,
    ``output_names`` is empty.

    Args:
        network: images [N, in_channels, H, W] -> logits [N, num_classes], in training too.
        place: of the code, for messages.

    Raises:
        NetworkCodeError: it cannot be shown such images, answers otherwise, or has nothing to learn.
    """

    def __init__(self, network: nn.Module, *, place: str, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.network = network
        if next(network.parameters(), None) is None:
            raise NetworkCodeError(f"{place} has no weights, so nothing in it can learn")
        calls = _calls(network, place, (in_channels, image_size, image_size), num_classes)
        _check_training(network, place, (in_channels, image_size, image_size), num_classes)
        _refuse_shared(network, place)
        heads = [name for name, shapes in calls.items() if _is_head(network.get_submodule(name), shapes, num_classes)]
        self.output_names = tuple(f"network.{name}" for name in heads[-1:])
        self.taps = {
            name: Tap(f"network.{name}", shapes[0])
            for name, shapes in calls.items()
            if len(shapes) == 1 and shapes[0] is not None and name not in heads[-1:]
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, in_channels, H, W] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.network(images)
        return logits

    def initialize(self) -> None:
        """Nothing: a network of one's own has given itself its weights."""


def is_code(what: str) -> bool:
    """Whether a text names a Python file, with or without a function in it.

    >>> is_code("my_net.py:make"), is_code("my_net.py"), is_code("vgg16")
    (True, True, False)
    """
    path, _, _ = what.rpartition(":")
    return path.endswith(".py") or what.endswith(".py")


def read_code(what: str) -> Code:
    """The code that "my_net.py:make" names.

    Raises:
        NetworkCodeError: no function is named, or there is no such file.
    """
    path, _, factory = what.rpartition(":")
    if not path.endswith(".py") or not factory.isidentifier():
        raise NetworkCodeError(
            f"{what} may hold several networks; name the function that makes one: my_net.py:FUNCTION"
        )
    try:
        return Code(read_regular(Path(path).expanduser(), MOST_CODE_BYTES), factory, what)
    except FileNotFoundError as error:
        raise NetworkCodeError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise NetworkCodeError(f"{path} cannot be read: {error}") from error


def own_entry(code: Code) -> OwnEntry:
    """Run a person's code and say of their network what is known of a registered one.

    >>> own_entry(read_code("my_net.py:make")).image_size  # doctest: +SKIP
    224

    The function is told ``num_classes``, ``in_channels`` and ``image_size``, those of them that it takes, by name; a
    default of the last is the size that it is made for. It returns a module.

    Raises:
        NetworkCodeError: the file cannot be run, or has no such function.
    """
    make = _factory(code)
    taken = _taken(make)
    sizes = {name: _default(taken.get(name), assumed) for name, assumed in SIZES.items()}

    def build(*, num_classes: int, in_channels: int, image_size: int) -> Classifier:
        chosen = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        network = _called(make, code.place, _told(taken, chosen))
        if isinstance(network, Classifier):
            return network
        return OwnClassifier(network, place=code.place, **chosen)

    layers = _layers_unbuilt(make, code.place, _told(taken, sizes))
    normalized = any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    fixed = None if first is None or "in_channels" in _told(taken, sizes) else first.in_channels or None
    if fixed not in (None, 1, 3):
        raise NetworkCodeError(f"{code.place} takes images of {fixed} channels; images have 1 or 3")
    return OwnEntry(
        name=code.factory,
        family="",
        year=None,
        paper=code.place,
        image_size=sizes["image_size"],
        in_channels=sizes["in_channels"],
        num_classes=sizes["num_classes"],
        minimum_size=1,
        minimum_reason="",
        recipe=WITH_BATCH_NORM if normalized else WITHOUT,
        build=build,
        brought="",
        code=code,
        fixed_channels=fixed,
    )


def create_own(
    entry: OwnEntry, *, num_classes: int, in_channels: int, image_size: int, seed: int | None = None
) -> Classifier:
    """The network with the weights that its code gives it; with ``seed`` always the same ones.

    Raises:
        NetworkCodeError: its function fails, or makes no classifier of that size.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return entry.build(num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def usual_sizes(make: Callable[..., Any]) -> dict[str, int]:
    """What a function is told where nobody says: its own defaults, else ten classes of pictures of 3x224x224.

    >>> usual_sizes(lambda num_classes, image_size=64: None)
    {'num_classes': 10, 'image_size': 64}
    """
    taken = _taken(make)
    return _told(taken, {name: _default(taken.get(name), assumed) for name, assumed in SIZES.items()})


def run_code(text: bytes, name: str, place: str) -> ModuleType:
    """Run the text of a Python file as a module of that name.

    Raises:
        NetworkCodeError: it fails.
    """
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look there for the names in their annotations
    try:
        exec(compile(text, place, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # a script that ends itself must not end this one
        raise NetworkCodeError(f"{place} cannot be run: {_complaint(error)}") from error
    return module


def _factory(code: Code) -> Callable[..., Any]:
    module = run_code(code.text, f"convatlas_own_{code.sha256[:12]}", code.place)
    make = vars(module).get(code.factory)
    if not callable(make) or isinstance(make, nn.Module):
        functions = [name for name, each in vars(module).items() if inspect.isfunction(each) and name[0] != "_"]
        known = f". Functions in it: {', '.join(functions)}" if functions else ""
        raise NetworkCodeError(f"{code.place}: there is no function {code.factory} that makes a network{known}")
    found: Callable[..., Any] = make
    return found


def _taken(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # of a callable that says nothing of itself
        return {}


def _told(taken: dict[str, inspect.Parameter], sizes: dict[str, int]) -> dict[str, int]:
    """Those of the sizes that a function takes by name; all where it takes any name."""
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
    return {name: size for name, size in sizes.items() if takes_any or name in taken}


def _layers_unbuilt(make: Callable[..., Any], place: str, sizes: dict[str, int]) -> list[nn.Module]:
    """The layers of a network without memory for weights; none where its code cannot make one so, or of these sizes."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return list(_called(make, place, sizes).modules())
    except NetworkCodeError:  # said of the sizes that count, when it is built
        return []


def _default(parameter: inspect.Parameter | None, assumed: int) -> int:
    given = parameter.default if parameter is not None else None
    return given if isinstance(given, int) and given > 0 else assumed


def _called(make: Callable[..., Any], place: str, sizes: dict[str, int]) -> nn.Module:
    try:
        made = make(**sizes)
    except (Exception, SystemExit) as error:
        told = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise NetworkCodeError(f"{place} cannot be called with ({told}): {_complaint(error)}") from error
    if not isinstance(made, nn.Module):
        raise NetworkCodeError(f"{place} gives a {type(made).__name__}, not an nn.Module")
    return made


def _calls(
    network: nn.Module, place: str, image: tuple[int, int, int], classes: int
) -> dict[str, list[tuple[int, ...] | None]]:
    """Path of a layer -> the shape of each of its outputs for one image, in the order they were begun."""
    found: dict[str, list[tuple[int, ...] | None]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found.setdefault(name, []).append(tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else None)

        return hook

    def begin(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, __: Any) -> None:
            found.setdefault(name, [])

        return hook

    layers = [(name, layer) for name, layer in network.named_modules() if name]
    handles = [layer.register_forward_pre_hook(begin(name)) for name, layer in layers]
    handles += [layer.register_forward_hook(keep(name)) for name, layer in layers]
    was_training = network.training
    try:
        _shown(network.eval(), place, 1, image, classes, "")
    finally:
        for handle in handles:
            handle.remove()
        network.train(was_training)
    return found


def _check_training(network: nn.Module, place: str, image: tuple[int, int, int], classes: int) -> None:
    """On a copy: normalisation learns from what it is shown."""
    try:
        copied = copy.deepcopy(network)
    except Exception as error:  # whatever a person's own __deepcopy__ or tensors say
        raise NetworkCodeError(f"{place} cannot be copied: {_complaint(error)}") from error
    _shown(copied.train(), place, 2, image, classes, " in training")


def _refuse_shared(network: nn.Module, place: str) -> None:
    """Two names for the same numbers: a file of weights, and whoever freezes a layer, would have them twice."""
    seen: dict[int, str] = {}
    for name, tensor in network.state_dict().items():
        at = tensor.untyped_storage().data_ptr() if tensor.numel() else 0
        if at and at in seen:
            raise NetworkCodeError(
                f"{place} has the same weights twice, as {seen[at]} and {name}: give them one name; a layer may be "
                "called twice"
            )
        seen[at] = name


def _is_head(layer: nn.Module, shapes: list[tuple[int, ...] | None], classes: int) -> bool:
    last = shapes[-1] if shapes else None
    if last is None:
        return False
    if isinstance(layer, nn.Linear):
        return last == (classes,)
    return isinstance(layer, nn.Conv2d) and last[0] == classes


def _shown(network: nn.Module, place: str, n: int, image: tuple[int, int, int], classes: int, when: str) -> None:
    size = "x".join(map(str, image))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer = network(torch.zeros(n, *image))
    except (Exception, SystemExit) as error:
        raise NetworkCodeError(f"{place} cannot be shown an image of {size}{when}: {_complaint(error)}") from error
    if not isinstance(answer, torch.Tensor):
        raise NetworkCodeError(
            f"{place} gives a {type(answer).__name__}{when}; it must give the logits alone, a tensor"
        )
    if tuple(answer.shape) != (n, classes):
        raise NetworkCodeError(
            f"{place} gives {list(answer.shape)}{when} for {n} image{'s' if n > 1 else ''} of {size} and {classes} "
            f"classes; it must give [{n}, {classes}]: let its function take num_classes"
        )


def _complaint(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
