"""From good images to the run of an autoencoder that finds what is unusual in others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convatlas.assessment.image_autoencoder import (
    judge_test_images,
    maps_of,
    most_of,
    prepared_images_for,
    usual_places,
    write_image_report,
)
from convatlas.data.catalog import open_source
from convatlas.data.dataset import ImageArray
from convatlas.data.geometry import choose_geometry
from convatlas.data.good_images import PreparedImages, normal_class, prepare_images
from convatlas.data.preprocessing import Preprocessing
from convatlas.models import ImageAutoencoder, ImageAutoencoderEntry, create_image_autoencoder
from convatlas.runs import (
    GoodImagesCard,
    ImageAutoencoderCard,
    ImageAutoencoderRun,
    ImageReconstructionCard,
    describe_environment,
    refuse_taken,
    timestamp,
)
from convatlas.tasks.reconstruct.task import Reconstruction
from convatlas.tasks.reconstruct.thresholds import parse_rate
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.processes import is_main, made_by_main, main_process_first
from convatlas.training.progress import Watch
from convatlas.training.recipe import ImageReconstructionRecipe, Recipe, recipe_for
from convatlas.workflows.attempt import (
    as_the_recipe_starts,
    attempt,
    recipe_to_go_on_with,
    skipped_finding,
    update,
    updated_recipe,
)
from convatlas.workflows.autoencoders import asked_confidence, promised_rate, split_settings

MOST_FOR_BASELINE = 1000  # images whose variance is measured, if they are not too large


def train_image_autoencoder(  # noqa: PLR0913, what a person may want to say
    entry: ImageAutoencoderEntry,
    data: Any,
    recipe: str | Path | Recipe | None,
    settings: dict[str, Any],
    *,
    image_size: int | None,
    include: str | None,
    normal: str | None,
    false_alarms: float | str | None,
    out: Path | None,
    watch: Watch,
) -> ImageAutoencoderRun:
    """Train an autoencoder on the images of the normal class; arguments and errors as of ``convatlas.train``."""
    of_network, of_recipe = split_settings(entry, settings)
    chosen = updated_recipe(recipe_for(recipe or entry.recipe, ImageReconstructionRecipe), of_recipe, watch)
    rate = parse_rate(false_alarms) if false_alarms is not None else None
    source = open_source(data, include)
    normal = normal_class(source, normal)
    geometry = choose_geometry(source, native_size=entry.image_size, image_size=image_size)
    model_card = ImageAutoencoderCard(
        name=entry.name,
        in_channels=geometry.channels,
        image_size=geometry.crop,
        settings=dict(entry.settings) | of_network,
    )
    network = _fresh_network(model_card, chosen)  # before the images: a size it cannot take is an error at once
    if out is not None and is_main():
        refuse_taken(out)
    with main_process_first():
        prepared = prepare_images(
            source,
            normal=normal,
            channels=geometry.channels,
            side=geometry.crop,  # whole: a defect may be at the border
            shares=(chosen.validation_fraction, chosen.calibration_fraction, chosen.test_fraction),
            used=chosen.fit_fraction,
            watch=watch.decoding if is_main() else None,
        )
    card = ImageReconstructionCard(
        created=timestamp(),
        model=model_card,
        preprocessing=Preprocessing.named(chosen.normalization, prepared.fit, crop=geometry.crop),
        recipe=chosen.model_dump(mode="json"),
        data=_images_card(prepared),
        false_alarms=promised_rate(rate, len(prepared.calibration), "images", prepared.name, watch),
        environment=describe_environment(),
    )
    path = made_by_main(lambda: ImageAutoencoderRun.create(card, out).path)
    return _fit(ImageAutoencoderRun(path, card), network, prepared, chosen, watch, resume=False)


def resume_image_autoencoder(
    run: ImageAutoencoderRun, *, data: Any, epochs: int | None, time_budget: float | None, watch: Watch
) -> ImageAutoencoderRun:
    """Go on with a run; arguments and errors as of ``convatlas.resume``."""
    recipe = recipe_to_go_on_with(run, ImageReconstructionRecipe, epochs=epochs, time_budget=time_budget)
    prepared = prepared_images_for(run, data)
    network = _fresh_network(run.card.model, recipe)
    update(run, data=_images_card(prepared))
    return _fit(run, network, prepared, recipe, watch, resume=checkpoint.exists(run.path))


def _fit(
    run: ImageAutoencoderRun,
    network: ImageAutoencoder,
    prepared: PreparedImages,
    recipe: ImageReconstructionRecipe,
    watch: Watch,
    *,
    resume: bool,
) -> ImageAutoencoderRun:
    if prepared.skipped and is_main():
        watch.finding(skipped_finding(prepared.skipped))
    preprocessing = run.card.preprocessing
    feed = Feed.of_good_images(prepared.fit, prepared.validation, preprocessing, recipe)

    def conclude(state: TrainingState) -> None:
        places = usual_places(run, prepared.validation)
        run.keep_calibration(places, maps_of(run, prepared.calibration, places))
        if run.card.false_alarms is not None:
            run.set_threshold(run.card.false_alarms, asked_confidence(run.card))
        write_image_report(run, state.history, judge_test_images(run, prepared), prepared)

    task = Reconstruction(_baseline(prepared.fit, preprocessing), "images")
    attempt(run, network, task, feed, recipe, watch, resume=resume, conclude=conclude)
    return run


def _baseline(images: ImageArray, preprocessing: Preprocessing) -> float:
    """The loss of always giving back the mean image: the mean variance of a pixel."""
    most = min(len(images), MOST_FOR_BASELINE, most_of(math.prod(images.image_shape)))
    some = images.take(np.arange(most))
    return float(preprocessing.normalize(torch.from_numpy(some)).double().var(dim=0, correction=0).mean())


def _fresh_network(card: ImageAutoencoderCard, recipe: ImageReconstructionRecipe) -> ImageAutoencoder:
    network = create_image_autoencoder(
        card.name, in_channels=card.in_channels, image_size=card.image_size, seed=recipe.seed, **card.settings
    )
    return as_the_recipe_starts(network, recipe)


def _images_card(prepared: PreparedImages) -> GoodImagesCard:
    return GoodImagesCard(
        name=prepared.name,
        location=prepared.location,
        include=prepared.include,
        fingerprint=prepared.fingerprint,
        classes=prepared.classes,
        normal=prepared.normal,
        counts=prepared.counts,
        anomalies=int(prepared.is_anomaly(prepared.test).sum()),
        left_out=prepared.left_out,
        skipped=prepared.skipped,
        split_seed=prepared.split_seed,
    )
