from __future__ import annotations

from pathlib import Path

import pytest

from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import RunError
from convatlas.runs import ClassificationCard, ClassifierRun, DataCard, ModelCard, Run, list_runs


@pytest.fixture
def card() -> ClassificationCard:
    return ClassificationCard(
        created="2026-11-22T10:00:00+00:00",
        model=ModelCard(name="lenet5", num_classes=2, in_channels=1, image_size=12),
        classes=("ant", "bee"),
        preprocessing=Preprocessing(channels=1, resize=12, crop=12, scale=1 / 255, mean=(0.0,), std=(1.0,)),
        recipe={},
        data=DataCard(
            name="insects",
            location="/insects",
            fingerprint="f",
            counts={},
            mirror=True,
            split_seed=0,
            validation_fraction=0.1,
        ),
        environment={},
    )


def test_a_card_comes_back_as_it_was(card: ClassificationCard, tmp_path: Path) -> None:
    ClassifierRun.create(card, tmp_path / "run")
    assert Run.open(tmp_path / "run").card == card


def test_runs_are_named_by_day_network_and_data(
    card: ClassificationCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ClassifierRun.create(card)
    assert str(run.path).startswith("runs/2026-11-22-lenet5-insects-")
    assert Run.open(run.path.name).card == card  # a name is looked for in runs/


def test_a_directory_with_something_in_it_is_not_taken(card: ClassificationCard, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        ClassifierRun.create(card, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_trainings_cannot_write_one_run(card: ClassificationCard, tmp_path: Path) -> None:
    run = ClassifierRun.create(card, tmp_path / "run")
    again = Run.open(run.path).being_written()
    with run.being_written(), pytest.raises(RunError, match="being trained by another process"), again:
        pass
    with Run.open(run.path).being_written():  # free again
        pass


def test_runs_are_listed_by_age_and_damage_is_told(card: ClassificationCard, tmp_path: Path) -> None:
    ClassifierRun.create(card.model_copy(update={"created": "2026-11-23T10:00:00+00:00"}), tmp_path / "a")
    ClassifierRun.create(card, tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "card.json").write_text("[]")
    (tmp_path / "not-a-run").mkdir()
    runs, complaints = list_runs(tmp_path)
    assert [run.path.name for run in runs] == ["b", "a"]
    assert len(complaints) == 1
    assert "c/card.json" in complaints[0]


def test_a_card_with_a_field_of_the_wrong_kind_says_which(card: ClassificationCard, tmp_path: Path) -> None:
    run = ClassifierRun.create(card, tmp_path / "run")
    path = run.path / "card.json"
    path.write_text(path.read_text().replace('"num_classes": 2', '"num_classes": "many"'))
    with pytest.raises(RunError, match=r"damaged at model\.num_classes"):
        Run.open(run.path)
