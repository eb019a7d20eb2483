"""The totals, the look-up by name, and the record for programs."""

from __future__ import annotations

import json

import pytest
import torch

from convatlas.errors import UnknownNameError
from convatlas.inspection import Inspection, inspect_module
from convatlas.models import outline_model


@pytest.fixture(scope="module")
def vgg16() -> Inspection:
    model = outline_model("vgg16")
    taps = {tap: place.module for tap, place in model.taps.items()}
    return inspect_module(model, torch.zeros(1, 3, 224, 224, device="meta"), name="vgg16", taps=taps)


def test_the_totals_of_vgg16(vgg16: Inspection) -> None:
    assert (vgg16.parameters, vgg16.macs, vgg16.flops) == (138_357_544, 15_470_264_320, 30_940_528_640)
    assert sum(layer.parameters for layer in vgg16.layers) == vgg16.parameters
    assert vgg16.unused == {}


def test_layers_by_the_papers_name_and_by_path(vgg16: Inspection) -> None:
    assert vgg16.layer("conv5_3").receptive_field.size == (196, 196)
    assert vgg16.layer("features.0").detail == "3x3"
    with pytest.raises(UnknownNameError, match="conv5_3"):
        vgg16.layer("conv5-3")


def test_the_record_is_json_with_the_fields_that_programs_rely_on(vgg16: Inspection) -> None:
    record = json.loads(json.dumps(vgg16.record()))
    assert record["model"] == "vgg16"
    assert record["input_shape"] == [1, 3, 224, 224]
    row = next(row for row in record["layers"] if row["tap"] == "pool5")
    assert (row["receptive_field"], row["jump"], row["centre"]) == ([212, 212], [32.0, 32.0], [15.5, 15.5])
    assert row["output_shape"] == [1, 512, 7, 7]
    dense = next(row for row in record["layers"] if row["tap"] == "fc6")
    assert (dense["receptive_field"], dense["jump"]) == ([404, 404], None)
