"""Unusual rows from end to end: learn from a table, then evaluate, predict, set the threshold, go on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import convatlas as convatlas_api
from convatlas.acceleration import WHOLE_STEPS
from convatlas.errors import ConvatlasError
from convatlas.runs import AutoencoderRun
from convatlas.training.progress import Silent
from stopping import StopAt

Command = Callable[..., Any]
FIT = ("--set", "batch_size=32", "--set", "learning_rate=0.005")


def payments(rows: int = 1500, frauds: int = 40) -> pd.DataFrame:
    """Payments whose columns go together, but in a fraud; with a category, missing values and a time."""
    draws = np.random.default_rng(0)
    amount, distance = draws.normal(size=(2, rows))
    frame = pd.DataFrame(
        {
            "seconds": np.arange(rows) * 7,
            "amount": (40 + 10 * amount).round(2),
            "fee": (4 + amount + 0.05 * draws.normal(size=rows)).round(3),
            "distance": np.where(draws.random(rows) < 0.05, np.nan, distance),
            "hours": distance * 2 + 0.1 * draws.normal(size=rows),
            "country": draws.choice(["CH", "DE", "FR"], rows, p=[0.7, 0.2, 0.1]),
            "fraud": "no",
        }
    )
    which = draws.choice(rows, frauds, replace=False)
    frame.loc[which, "fee"] = (frame.loc[which, "fee"] + draws.choice([-4, 4], frauds)).round(3)
    frame.loc[which, "fraud"] = "yes"
    return frame


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "payments.csv"
    payments().to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def trained(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "payments"
    convatlas_api.train(
        "autoencoder_bottleneck",
        data=table,
        label="fraud",
        time="seconds",
        false_alarms="2%",
        out=out,
        epochs=6,
        batch_size=32,
        learning_rate=0.005,
        watch=Silent(),
    )
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def card(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "card.json").read_text())
    return content


def test_train_says_what_was_found_and_what_to_do_next(convatlas: Command, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    answer = convatlas(
        "train", "autoencoder_denoising", "--data", table, "--label", "fraud", "--epochs", 2, "--out", out, *FIT,
        "--set", "corruption=gaussian",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "rows/s" in answer.out
    assert "images" not in answer.out
    assert "\ntest average precision " in answer.out
    assert "; tested once" in " ".join(answer.out.split())
    assert "The network " in answer.out  # ahead, behind or beside its rivals
    assert all(len(line) <= 80 for line in answer.out.splitlines() if not line.startswith(("run", "report", "next")))
    assert f"next    convatlas predict {out} TABLE" in answer.out
    told = card(out)
    assert (told["task"], told["status"], told["test_evaluations"]) == ("reconstruct", "finished", 1)
    assert told["model"]["settings"]["corruption"] == "gaussian"
    assert (told["data"]["label"], told["data"]["normal"], told["data"]["anomalies"]) == ("fraud", "no", 40)
    assert [column["name"] for column in told["encoding"]["columns"]] == [
        "seconds", "amount", "fee", "distance", "hours", "country",
    ]  # fmt: skip
    assert (told["threshold"]["rate"], told["data"]["counts"]["calibration"]) == (0.05, 292)  # 1 % takes 299
    assert {"model.safetensors", "calibration.safetensors", "history.csv", "report.html"} <= {
        entry.name for entry in out.iterdir()
    }
    page = (out / "report.html").read_text()
    assert "Beside other detectors" in page
    assert "Rows/s" in page


def test_evaluate_tells_precision_beside_rivals_and_counts_its_looks(convatlas: Command, run: Path) -> None:
    answer = convatlas("evaluate", run, "--json", "--prevalence", "0.5%")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert record["anomalies"] == card(run)["test"]["anomalies"] > 0
    assert record["average_precision"] == card(run)["test"]["average_precision"]
    assert record["stated_prevalence"] == 0.005
    assert {column["name"] for column in record["columns"][:2]} == {"fee", "amount"}  # that go together otherwise
    assert {rival["name"] for rival in record["rivals"]} >= {
        "Mahalanobis", "PCA", "nearest neighbours", "isolation forest",
    }  # fmt: skip
    assert card(run)["test_evaluations"] == 2
    told = convatlas("evaluate", run, "--rows-a-day", 10_000).out
    assert "of 10,000 rows a day" in told
    assert all(len(line) <= 80 for line in told.splitlines() if not line.startswith("record"))


def test_the_table_that_was_trained_on_is_judged_by_its_test_rows(convatlas: Command, run: Path, table: Path) -> None:
    own = json.loads(convatlas("evaluate", run, "--json").out)
    named = json.loads(convatlas("evaluate", run, "--data", table, "--json").out)
    assert (named["n"], named["average_precision"]) == (own["n"], own["average_precision"])
    assert "judged are the test rows" in named["remarks"][0]
    assert card(run)["test_evaluations"] == 3


def test_few_anomalies_have_no_interval_and_none_have_no_figure(
    convatlas: Command, table: Path, tmp_path: Path
) -> None:
    few = payments()
    few = few.drop(few.index[few["fraud"] == "yes"][3:])
    few.to_csv(tmp_path / "few.csv", index=False)
    answer = convatlas("train", "autoencoder_plain", "--data", tmp_path / "few.csv", "--label", "fraud",
                       "--epochs", 1, "--out", tmp_path / "few")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "too few anomalies to tell" in answer.out
    few.drop(columns="fraud").to_csv(tmp_path / "none.csv", index=False)
    answer = convatlas("train", "autoencoder_plain", "--data", tmp_path / "none.csv", "--epochs", 1,
                       "--out", tmp_path / "none")  # fmt: skip
    assert answer.code == 0, answer.err
    assert "rows without labels" in answer.out
    assert "false alarms  " not in answer.out  # nobody knows which alarms are false


def test_a_confidence_that_was_chosen_is_kept(convatlas: Command, run: Path) -> None:
    assert convatlas("threshold", run, "--false-alarms", "5%", "--confidence", 0.99).code == 0
    assert convatlas("train", "--resume", run, "--epochs", 7).code == 0
    assert (card(run)["threshold"]["rate"], card(run)["threshold"]["confidence"]) == (0.05, 0.99)
    assert convatlas("threshold", run, "--confidence", 0.9).code == 0
    assert (card(run)["threshold"]["rate"], card(run)["threshold"]["confidence"]) == (0.05, 0.9)


def test_rows_that_are_not_used_are_left_out(table: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "label": "fraud", "watch": Silent()}
    whole = convatlas_api.train("autoencoder_plain", data=table, out=tmp_path / "a", **settings).card.data
    settings |= {"fit_fraction": 0.5}
    half = convatlas_api.train("autoencoder_plain", data=table, out=tmp_path / "b", **settings).card.data
    assert whole.left_out + sum(whole.counts.values()) == whole.rows
    assert half.left_out + sum(half.counts.values()) == half.rows
    assert half.counts["fit"] == pytest.approx(whole.counts["fit"] / 2, abs=1)


def test_the_lowest_rate_that_is_told_can_be_asked_for(convatlas: Command, run: Path) -> None:
    told = " ".join(convatlas("threshold", run).out.split())
    least = told.split("can promise ")[1].split(" % of false")[0]
    assert convatlas("threshold", run, "--false-alarms", f"{least}%").code == 0


@pytest.mark.usefixtures("cpu_only")
def test_ctrl_c_leaves_a_run_that_ends_as_an_unbroken_one(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)  # so that the watch hears of every step
    settings: dict[str, Any] = {"label": "fraud", "epochs": 3, "batch_size": 32}
    whole = convatlas_api.train("autoencoder_plain", data=table, out=tmp_path / "a", watch=Silent(), **settings)
    part = convatlas_api.train("autoencoder_plain", data=table, out=tmp_path / "b", watch=StopAt(40), **settings)
    assert part.card.status == "interrupted"
    gone_on = convatlas_api.resume(part.path, watch=Silent())
    assert gone_on.card.status == "finished"
    assert whole.card.engine == gone_on.card.engine == WHOLE_STEPS
    for file in ("model.safetensors", "calibration.safetensors"):
        assert (gone_on.path / file).read_bytes() == (whole.path / file).read_bytes()


@pytest.mark.usefixtures("cpu_only")
def test_pytorch_may_take_the_steps(convatlas: Command, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = convatlas("train", "autoencoder_plain", "--data", table, "--epochs", 1, "--engine", "torch", "--out", out)
    assert "engine  torch\n" in answer.out
    assert convatlas("train", "--resume", out, "--epochs", 2).code == 0
    assert card(out)["engine"] == {"name": "torch", "choices": {}}  # what it began with
    assert convatlas("train", "--resume", out, "--epochs", 3, "--engine", "auto").code == 0
    assert card(out)["engine"]["name"] == "convatlas"


@pytest.mark.parametrize(
    "given",
    [
        {"label": 3}, {"label": ["fraud"]}, {"time": 3.5}, {"out": 3}, {"false_alarms": True}, {"false_alarms": "nan"},
    ],
)  # fmt: skip
def test_what_train_takes_is_said_in_one_line(given: dict[str, Any], table: Path) -> None:
    with pytest.raises(ConvatlasError) as error:
        convatlas_api.train("autoencoder_plain", data=table, **given)
    assert next(iter(given)).split("_")[0] in str(error.value) or "share of rows" in str(error.value)


def test_rows_without_labels_are_compared_with_the_calibration(convatlas: Command, run: Path, tmp_path: Path) -> None:
    same, drifted = payments().drop(columns="fraud").iloc[-400:], payments().drop(columns=["fraud", "seconds"])
    drifted["hours"] += 3
    same.to_csv(tmp_path / "same.csv", index=False)
    drifted.to_csv(tmp_path / "drifted.csv", index=False)
    alike = json.loads(convatlas("evaluate", run, "--data", tmp_path / "same.csv", "--json").out)
    moved = json.loads(convatlas("evaluate", run, "--data", tmp_path / "drifted.csv", "--json").out)
    assert alike["anomalies"] is None
    assert not moved["drift"]["alike"]
    assert moved["drift"]["columns"][0]["name"] in {"hours", "distance"}
    assert "have drifted" in convatlas("evaluate", run, "--data", tmp_path / "drifted.csv").out


def test_predict_says_which_columns_did_it(convatlas: Command, run: Path, tmp_path: Path) -> None:
    new = payments().drop(columns=["fraud", "seconds"]).iloc[:300].copy()
    new.loc[17, "fee"] += 9
    new.to_csv(tmp_path / "new.csv", index=False)
    scores = tmp_path / "scores.csv"
    answer = convatlas("predict", run, tmp_path / "new.csv", "--top", 2, "--out", scores, "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    first = record["highest"][0]
    assert (record["rows"], len(record["highest"]), first["row"], first["alarm"]) == (300, 2, 18, True)
    assert first["columns"][0]["name"] == "fee"
    assert first["columns"][0]["seen"] == f"{new.loc[17, 'fee']:.6g}"
    assert sum(part["share"] for part in first["columns"]) <= 1 + 1e-9
    written = pd.read_csv(scores)
    assert list(written.columns) == ["row", "score", "p_value", "alarm"]
    assert len(written) == 300
    assert written["score"].max() == pytest.approx(first["score"])
    assert written["alarm"].sum() == record["alarms"]
    assert "expected" in convatlas("predict", run, tmp_path / "new.csv").out


def test_what_columns_add_is_the_score(run: Path) -> None:
    opened = convatlas_api.load(run)
    assert isinstance(opened, AutoencoderRun)
    encoded = opened.card.encoding.encode(payments().iloc[:50])
    scores, added = opened.scored(encoded)
    assert np.allclose(added.sum(axis=1), scores)
    assert np.allclose(opened.predict(payments().iloc[:50]).scores, scores)


def test_the_threshold_changes_without_training(convatlas: Command, run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    refused = convatlas("threshold", run, "--false-alarms", "0.1%")
    assert (refused.code, refused.out) == (2, "")
    assert "2,995 calibration rows" in refused.err
    assert convatlas("threshold", run, "--alarms-a-day", 300, "--rows-a-day", 10_000).code == 0
    assert card(run)["threshold"]["rate"] == 0.03
    assert convatlas("threshold", run, "--cost", 2, "--budget", 1000, "--rows-a-day", 10_000).code == 0
    assert card(run)["threshold"]["rate"] == 0.05
    assert "5 %" in convatlas("threshold", run).out
    assert (run / "model.safetensors").read_bytes() == weights


def test_a_training_that_goes_on_ends_as_an_unbroken_one(table: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"label": "fraud", "batch_size": 32, "learning_rate": 0.005, "watch": Silent()}
    whole = convatlas_api.train("autoencoder_denoising", data=table, out=tmp_path / "whole", epochs=3, **settings)
    part = convatlas_api.train("autoencoder_denoising", data=table, out=tmp_path / "part", epochs=2, **settings)
    shutil.copy(table, tmp_path / "moved.csv")
    longer = convatlas_api.resume(part.path, data=tmp_path / "moved.csv", epochs=3, watch=Silent())
    for file in ("model.safetensors", "calibration.safetensors"):
        assert (longer.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert longer.card.test == whole.card.test


@pytest.mark.usefixtures("cpu_only")
def test_rows_from_python_and_from_other_files_are_the_same_rows(table: Path, tmp_path: Path) -> None:
    numbers = payments()[["amount", "fee", "hours"]]
    np.savez(tmp_path / "rows.npz", X=numbers.to_numpy(), columns=np.array(list(numbers.columns)))
    numbers.to_csv(tmp_path / "rows.csv.gz", index=False)
    numbers.to_parquet(tmp_path / "rows.parquet")
    sources = [
        numbers,
        numbers.to_numpy(),
        tmp_path / "rows.npz",
        tmp_path / "rows.csv.gz",
        tmp_path / "rows.parquet",
    ]
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 64, "watch": Silent()}
    runs = [
        convatlas_api.train("autoencoder_plain", data=source, out=tmp_path / str(place), **settings)
        for place, source in enumerate(sources)
    ]
    weights = {(run.path / "model.safetensors").read_bytes() for run in runs}
    assert len(weights) == 1
    named = [source for source in sources if not isinstance(source, np.ndarray)]
    scores = {tuple(runs[0].predict(source).scores) for source in named}  # type: ignore[attr-defined]
    assert len(scores) == 1
    assert runs[0].card.test["average_precision"] is None  # nothing says what is an anomaly
    with pytest.raises(ConvatlasError, match="were in memory and in no file: give them again with data="):
        convatlas_api.evaluate(runs[0])
    assert "seconds" not in [column.name for column in runs[0].card.encoding.columns]


def test_runs_are_listed_with_their_figures(convatlas: Command, run: Path) -> None:
    listed = convatlas("runs", run.parent).out
    assert "autoencoder_bottleneck" in listed
    assert "AP " in listed
    assert "encoder.dense1" in convatlas("inspect", run).out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "autoencoder_plain", "--data", "TABLE", "--label", "frauds"), "did you mean fraud"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--label", "amount"), "it is no label"),
        (("train", "autoencoder_plain", "--data", "FEW", "--label", "hours"), "it is no label"),
        (("evaluate", "RUN", "--rows-a-day", "-5"), "rows a day must be a number above 0"),
        (("evaluate", "RUN", "--rows-a-day", "nan"), "rows a day must be a number above 0"),
        (("threshold", "RUN", "--rows-a-day", "nan"), "rows a day must be a number above 0"),
        (("threshold", "RUN", "--confidence", "nan"), "a confidence is above 0 and below 1"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--time", "country"), "country"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--normal", "no"), "say with label which column"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--label", "fraud", "--normal", "yess"), "no row of"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--image-size", "32"), "image_size has no meaning"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--engine", "cuda"), "no engine named 'cuda'"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--memory", "1GB"), "memory has no meaning"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--false-alarms", "0.1%"), "take 2,995 calibration rows"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--false-alarms", "x"), "a share of rows is above 0"),
        (("train", "autoencoder_plain", "--data", "TABLE", "--set", "sparsity=1"), "sparsity"),
        (("train", "autoencoder_denoising", "--data", "TABLE", "--set", "corruption_rate=2"), "from 0 to 1"),
        (("train", "autoencoder_plain", "--data", "digits"), "learns from rows"),
        (("train", "lenet5", "--data", "digits", "--label", "fraud"), "label has no meaning for lenet5"),
        (("evaluate", "RUN", "--prevalence", "0"), "0"),
        (("evaluate", "RUN", "--ten-crop"), "--ten-crop has no meaning"),
        (("predict", "RUN", "TABLE", "TABLE"), "a table at a time"),
        (("predict", "RUN", "nowhere.csv"), "nowhere.csv"),
        (("predict", "RUN", "BAD"), "row 3"),
        (("predict", "RUN", "SHORT"), "fee"),
        (("threshold", "RUN", "--cost", "3", "--rows-a-day", "9"), "--cost and --budget go together"),
        (("threshold", "RUN", "--alarms-a-day", "3"), "add --rows-a-day"),
        (("train", "--resume", "RUN"), "is finished"),
    ],
)
def test_mistakes_are_one_line(
    convatlas: Command,
    arguments: tuple[str, ...],
    complaint: str,
    table: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = payments().drop(columns=["fraud", "seconds"]).iloc[:5].astype({"fee": object})
    broken.drop(columns="fee").to_csv("SHORT.csv", index=False)
    payments().iloc[:60].to_csv("FEW.csv", index=False)
    broken.iloc[2, 1] = "much"
    broken.to_csv("BAD.csv", index=False)
    places = {"TABLE": str(table), "RUN": str(trained), "BAD": "BAD.csv", "SHORT": "SHORT.csv", "FEW": "FEW.csv"}
    answer = convatlas(*(places.get(each, each) for each in arguments))
    assert answer.code == 2, answer.out
    assert complaint in answer.err
    assert answer.err.count("\n") == 1


def test_rows_that_have_changed_since_the_training_are_told(convatlas: Command, table: Path, run: Path) -> None:
    content = json.loads((run / "card.json").read_text())
    other = run.parent / "other.csv"
    payments().iloc[:-1].to_csv(other, index=False)
    content["data"]["location"] = str(other)
    (run / "card.json").write_text(json.dumps(content))
    answer = convatlas("evaluate", run)
    assert answer.code == 2
    assert "are not the ones" in answer.err
    content["data"]["location"] = str(run.parent / "gone.csv")
    (run / "card.json").write_text(json.dumps(content))
    assert "are gone" in convatlas("evaluate", run).err
