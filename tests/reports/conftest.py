import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_record_json():
    """A complete record: six classes, a last epoch cut short."""
    return Path(__file__).with_name("run_record.json").read_text(encoding="utf-8")


@pytest.fixture
def run_record(run_record_json):
    """The record as objects of the test's own, to change as it likes."""
    return json.loads(run_record_json)


@pytest.fixture(scope="session")
def anomaly_record_json():
    """A complete record of an autoencoder, made by ``anomaly_record.py``."""
    return Path(__file__).with_name("anomaly_record.json").read_text(encoding="utf-8")


@pytest.fixture
def anomaly_record(anomaly_record_json):
    """The record as objects of the test's own, to change as it likes."""
    return json.loads(anomaly_record_json)
