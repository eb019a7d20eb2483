"""What a run says of itself, ``card.json``: what every task keeps, and what one task adds.

A card may be a stranger's: every value is held against what can be, and what is printed of it is escaped.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from convatlas.acceleration import EngineCard
from convatlas.data.appearance import Appearance
from convatlas.data.preprocessing import LARGEST_SIDE, Preprocessing
from convatlas.data.tables.encoding import RowEncoding

FORMAT_VERSION = 2
MOST_CLASSES = 100_000  # that a card may ask memory for
MOST_FEATURES = 100_000
MOST = 10**12  # of images, rows, looks or steps

Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Interval = tuple[Share, Share]
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Card(BaseModel):
    """What the runs of every task keep; ``best``, ``test`` and ``findings`` are filled in as they become known.

    ``engine`` is what trains the network; whoever opens the run may use another.
    """

    model_config = STRICT
    best_figures: ClassVar[frozenset[str]]  # of ``best``, that are printed

    format_version: int = FORMAT_VERSION
    task: str
    created: Name
    status: Literal["training", "interrupted", "failed", "finished"] = "training"
    model: Any
    recipe: dict[str, Any]
    data: Any
    engine: EngineCard = EngineCard()
    best: dict[str, float] | None = None
    test: dict[str, Any] | None = None
    test_evaluations: Count = 0
    findings: tuple[Text, ...] = ()
    environment: dict[str, Text]

    @model_validator(mode="after")
    def _best_is_whole(self) -> Self:
        missing = self.best_figures - self.best.keys() if self.best is not None else frozenset()
        if missing:
            raise ValueError(f"best has no {min(missing)}")
        return self

    @property
    def best_text(self) -> str:
        """The figure by which the weights were chosen, with its name; "-" before the first validation."""
        raise NotImplementedError

    @property
    def test_text(self) -> str:
        """The figure of the test, with its name; "-" where there is none."""
        raise NotImplementedError


class CodeCard(BaseModel):
    """Which function makes the network, of a file that the run has a copy of."""

    model_config = STRICT

    factory: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=200)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelCard(BaseModel):
    """Which classifier, and what ``create_model`` needs to build it again; ``code`` of a network of one's own."""

    model_config = STRICT

    name: Name
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    in_channels: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    code: CodeCard | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """What a network is built for."""
        return {"num_classes": self.num_classes, "in_channels": self.in_channels, "image_size": self.image_size}


class WeightsCard(BaseModel):
    """Which weights a training started from, and how much of the network they were."""

    model_config = STRICT

    source: Name
    sha256: Name
    how: Name
    loaded: Count
    total: Count


class FigureCard(BaseModel):
    """Right answers of ``n`` images."""

    model_config = STRICT

    correct: Count
    n: Annotated[int, Field(ge=1, le=MOST)]


class BaselineCard(BaseModel):
    """What the weights that a training started from are worth as they are: see ``transfer.baseline``."""

    model_config = STRICT

    part: Literal["test", "validation"]
    learnt_from: Count
    features: Count
    probe: FigureCard
    neighbours: FigureCard
    most_frequent: Name
    guessing: FigureCard


class DataCard(BaseModel):
    """Which images: where they came from, a hash of their content, and how they were split.

    ``mirror`` says whether a mirrored image keeps its class.
    """

    model_config = STRICT

    name: Name
    location: Name
    include: Name | None = None  # the pattern that all files fit
    fingerprint: Name
    counts: dict[Literal["train", "validation", "test"], Count]
    most_frequent: Name | None = None  # class of the validation images; this and the next: of runs since they are kept
    guessing: Share | None = None  # of them, that always answering it would get right
    skipped: tuple[tuple[Text, Text], ...] = ()
    copies_left_out: Count | None = None  # of pictures that were there many times; None: of runs that left out none
    mirror: bool
    split_seed: Seed
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] | None  # 0 where the set brings its own


class ClassificationSummary(BaseModel):
    """What ``Evaluation.summary`` says of the test set."""

    model_config = STRICT

    n: Annotated[int, Field(ge=1, le=MOST)]
    correct: Count
    accuracy: Share
    interval: Interval
    k: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    top_k_correct: Count
    top_k_accuracy: Share
    loss: Annotated[float, Field(ge=0)]
    balanced_accuracy: Share | None = None  # this and the next two: of runs since they are kept
    most_frequent: Name | None = None
    guessing: Share | None = None


class ClassificationCard(Card):
    """The run of a classifier of images."""

    best_figures: ClassVar[frozenset[str]] = frozenset({"epoch", "validation_accuracy", "validation_loss"})

    task: Literal["classify"] = "classify"
    model: ModelCard
    classes: tuple[Name, ...]
    preprocessing: Preprocessing
    data: DataCard
    weights: WeightsCard | None = None  # that the training started from; None: fresh ones
    baseline: BaselineCard | None = None
    appearance: Appearance | None = None  # of the training's images; None: too few, or of a run that kept none

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.classes) != self.model.num_classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.model.num_classes}")
        if self.preprocessing.channels != self.model.in_channels:
            raise ValueError(f"{self.preprocessing.channels} channels for a network of {self.model.in_channels}")
        if self.preprocessing.crop != self.model.image_size:
            raise ValueError(f"images of {self.preprocessing.crop} for a network of {self.model.image_size}")
        if self.appearance is not None and self.appearance.crop != self.model.image_size:
            raise ValueError(f"looks of {self.appearance.crop} pixels for a network of {self.model.image_size}")
        if self.test is not None:
            ClassificationSummary.model_validate(self.test)
        return self

    @property
    def best_text(self) -> str:
        """Validation accuracy."""
        return f"accuracy {self.best['validation_accuracy']:.2%}" if self.best else "-"

    @property
    def test_text(self) -> str:
        """Test accuracy."""
        return f"accuracy {self.test['accuracy']:.2%}" if self.test else "-"


class AutoencoderCard(BaseModel):
    """Which autoencoder, and what ``create_autoencoder`` needs to build it again."""

    model_config = STRICT

    name: Name
    columns: Annotated[int, Field(ge=1, le=MOST_FEATURES)]  # numbers a row is encoded as
    settings: dict[Name, float | int | bool | Name] = {}


class TableCard(BaseModel):
    """Which rows: where they came from, a hash of their content, and how they were divided.

    ``normal`` is the label of normal rows; ``left_out`` counts rows that are in none of the four parts.
    """

    model_config = STRICT

    name: Name
    location: Name
    fingerprint: Name
    label: Name | None = None
    normal: Text | None = None
    time: Name | None = None
    rows: Annotated[int, Field(ge=1, le=MOST)]
    counts: dict[Literal["fit", "validation", "calibration", "test"], Count]
    anomalies: Count | None = None
    left_out: Count = 0
    split_seed: Seed = 0


class ThresholdCard(BaseModel):
    """Above which score a row is an alarm: at most ``rate`` of normal rows, with ``confidence``."""

    model_config = STRICT

    value: Annotated[float, Field(ge=0)]
    rate: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    calibration_rows: Annotated[int, Field(ge=1, le=MOST)]


class AnomalySummary(BaseModel):
    """What ``AnomalyEvaluation.summary`` says of the test rows; None where no label tells."""

    model_config = STRICT

    n: Annotated[int, Field(ge=1, le=MOST)]
    anomalies: Count | None
    average_precision: Share | None
    average_precision_interval: Interval | None
    stated_prevalence: Share | None
    natural_average_precision: Share | None
    natural_average_precision_interval: Interval | None
    roc_auc: Share | None
    recall: Share | None
    false_alarm_rate: Share | None
    false_alarms: Count | None


class AnomalyCard(Card):
    """The run of an autoencoder, of whatever it is.

    ``false_alarms`` is the rate that the threshold is set for; None where there are too few normal ones for any.
    """

    best_figures: ClassVar[frozenset[str]] = frozenset({"epoch", "validation_loss"})

    false_alarms: Annotated[float, Field(gt=0, lt=1)] | None = None
    threshold: ThresholdCard | None = None

    @model_validator(mode="after")
    def _test_is_whole(self) -> Self:
        if self.test is not None:
            AnomalySummary.model_validate(self.test)
        return self

    @property
    def best_text(self) -> str:
        """Validation loss."""
        return f"loss {self.best['validation_loss']:.4g}" if self.best else "-"

    @property
    def test_text(self) -> str:
        """Average precision, where labels tell."""
        precision = self.test["average_precision"] if self.test else None
        return f"AP {precision:.3f}" if precision is not None else "-"


class ReconstructionCard(AnomalyCard):
    """The run of an autoencoder on the rows of a table."""

    task: Literal["reconstruct"] = "reconstruct"
    model: AutoencoderCard
    encoding: RowEncoding
    data: TableCard

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.encoding.width != self.model.columns:
            raise ValueError(f"rows of {self.encoding.width} numbers for a network of {self.model.columns}")
        return self


class ImageAutoencoderCard(BaseModel):
    """Which autoencoder of images, and what ``create_image_autoencoder`` needs to build it again."""

    model_config = STRICT

    name: Name
    in_channels: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    settings: dict[Name, float | int | bool | Name] = {}


class GoodImagesCard(BaseModel):
    """Which images: where they came from, a hash of their content, which class is normal, and how they were divided.

    ``left_out`` counts images that are in none of the four parts.
    """

    model_config = STRICT

    name: Name
    location: Name
    include: Name | None = None  # the pattern that all files fit
    fingerprint: Name
    classes: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MOST_CLASSES)]
    normal: Name
    counts: dict[Literal["fit", "validation", "calibration", "test"], Count]
    anomalies: Count
    left_out: Count = 0
    skipped: tuple[tuple[Text, Text], ...] = ()
    split_seed: Seed = 0


class ImageReconstructionCard(AnomalyCard):
    """The run of an autoencoder on images."""

    task: Literal["reconstruct_images"] = "reconstruct_images"
    model: ImageAutoencoderCard
    preprocessing: Preprocessing
    data: GoodImagesCard

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.preprocessing.channels != self.model.in_channels:
            raise ValueError(f"{self.preprocessing.channels} channels for a network of {self.model.in_channels}")
        if self.preprocessing.crop != self.model.image_size:
            raise ValueError(f"images of {self.preprocessing.crop} for a network of {self.model.image_size}")
        return self
