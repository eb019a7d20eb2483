"""Anomalies in a terminal of 80 columns: what is said with labels, without, and names that give it orders."""

import json
from pathlib import Path

import pytest

from convatlas.cli.anomalies import print_alarms, print_anomaly_evaluation, print_threshold

RECORD = Path(__file__).parents[1] / "reports" / "anomaly_record.json"
LABELLED = (
    "anomalies", "prevalence", "average_precision", "average_precision_interval", "natural_average_precision",
    "natural_average_precision_interval", "roc_auc", "false_alarms", "false_alarm_rate", "false_alarm_interval",
    "recall", "recall_interval", "precision_at_stated",
)  # fmt: skip


@pytest.fixture
def evaluated():
    test = json.loads(RECORD.read_text(encoding="utf-8"))["test"]
    return {"rows": "payments test", "remarks": []} | test | {"record": "runs/r/evaluations/payments-test.json"}


@pytest.fixture
def said(capsys):
    def lines():
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80, text
        assert "\x1b" not in text
        assert "None" not in text
        assert "probab" not in text
        return text

    return lines


def joined(text):
    return " ".join(text.split())


def without_labels(record):
    return record | dict.fromkeys(LABELLED) | {"columns": [], "rivals": [], "misses": [], "false_alarm_rows": []}


def test_the_first_lines_are_the_figure_its_rows_and_who_is_ahead(evaluated, said):
    print_anomaly_evaluation(evaluated)
    text = said()
    assert text.startswith("average precision 0.861 (95 % interval 0.83")
    assert "on 5,084 rows, 492 of them anomalies (9.68 %); guessing gives 0.097" in text.splitlines()[1]
    assert "cannot be told apart from Mahalanobis" in text.splitlines()[3]


def test_rivals_stand_by_rank_with_the_network_among_them(evaluated, said):
    print_anomaly_evaluation(evaluated)
    text = said()
    header = next(line for line in text.splitlines() if line.startswith("detector"))
    assert header.split() == ["detector", "AP", "at", "0.173", "%", "recall", "1", "%", "0.1", "%", "ROC"]
    places = [text.index(f"\n{name} ") for name in ("Mahalanobis", "nearest neighbours", "network", "PCA")]
    assert places == sorted(places)


def test_false_alarms_have_their_interval_and_a_day_its_alarms(evaluated, said):
    print_anomaly_evaluation(evaluated, rows_a_day=10_000)
    text = joined(said())
    assert "false alarms 0.871 % (40 of 4,592 normal rows; 95 % interval 0.62" in text
    assert "found 80.1 % (394 of 492 anomalies;" in text
    assert "of 10,000 rows a day, about 87 are false alarms (62 to 118)" in text
    assert "and 14 of about 17 anomalies are found" in text


def test_rare_alarms_of_a_day_are_not_rounded_to_none(evaluated, said):
    print_anomaly_evaluation(evaluated, rows_a_day=20)
    assert "about 0.17 are false alarms (0.12 to 0.24)" in joined(said())


def test_without_labels_alarms_are_counted_and_drift_is_told(evaluated, said):
    record = without_labels(evaluated) | {
        "remarks": ["no labels: how many anomalies are found cannot be told"],
        "drift": {
            "alike": False,
            "verdict": "the rows no longer look like the calibration rows",
            "columns": [{"name": "V3", "calibration_median": 0.01, "median": 0.02}],
        },
    }
    print_anomaly_evaluation(record, rows_a_day=1000)
    text = said()
    assert text.startswith("5,084 rows without labels\n! no labels:")
    assert "alarms        8.54 %  (434 of 5,084 rows)" in text
    assert "of 1,000 rows a day, about 85 would be alarms" in text
    assert "The rows no longer look like the calibration rows." in text
    assert "V3                        0.01        0.02" in text


def test_rows_of_one_kind_and_no_threshold(evaluated, said):
    record = without_labels(evaluated) | {"anomalies": 0, "prevalence": 0.0, "threshold": None, "alarms": None}
    print_anomaly_evaluation(record, rows_a_day=1000)
    text = joined(said())
    assert "5,084 rows, 0 of them anomalies (0 %): a ranking cannot be judged by one kind of rows alone" in text
    assert "no threshold is set" in text


def test_too_few_anomalies_for_an_interval(evaluated, said):
    for figures in (evaluated, *evaluated["rivals"]):
        figures.update(average_precision_interval=None, natural_average_precision_interval=None)
    print_anomaly_evaluation(evaluated)
    text = said()
    assert text.startswith("average precision 0.861\n")
    assert "too few anomalies to tell the network from" in text


def test_alarms_are_counted_and_the_highest_explained(evaluated, said):
    rows = evaluated["false_alarm_rows"][:2]
    print_alarms(alarms(evaluated, rows))
    text = said()
    assert text.startswith("new.csv: 12 of 1,000 rows are alarms, 1.2 %\nalarm above a score of ")
    assert f"row {rows[0]['row']:,}  score {rows[0]['score']:.4g}  p " in text
    part = rows[0]["columns"][0]
    assert f"{part['name']}" in text
    assert f"expected {part['expected']}" in text
    assert "it is not how likely an anomaly is" in joined(text)
    assert text.endswith("scores  scores.csv\n")


def test_one_alarm_no_rows_and_no_threshold(evaluated, said):
    print_alarms(alarms(evaluated, []) | {"alarms": 1, "scores": None})
    assert said().startswith("new.csv: 1 of 1,000 rows is an alarm, 0.1 %")
    print_alarms(alarms(evaluated, []) | {"alarms": 0, "rows": 0, "scores": None})
    assert said().startswith("new.csv: 0 of 0 rows are alarms\n")
    print_alarms(alarms(evaluated, []) | {"threshold": None, "scores": None})
    assert "no threshold is set, so none is called an alarm" in joined(said())


def test_long_names_and_values_stay_within_the_line(evaluated, said):
    for part in (part for row in evaluated["misses"] for part in row["columns"]):
        part |= {"name": "n" * 100, "seen": "s" * 100, "expected": "e" * 100, "share": 1.0, "explains": 1.0}
    for named in evaluated["columns"]:
        named["name"] = "n" * 100
    print_anomaly_evaluation(evaluated)
    assert "nnn...nnn" in said()


def test_names_and_values_cannot_give_orders_to_a_terminal(evaluated, said):
    row = evaluated["misses"][0]
    row["columns"][0] |= {"name": "[red]V1[/]", "seen": "\x1b]0;owned\x07\n" + "x" * 200, "expected": "[bold]\t1"}
    print_alarms(alarms(evaluated, [row]) | {"table": "\x1b[2Jnew.csv"})
    text = said()
    assert "[red]V1[/]" in text
    assert "[bold] 1" in text
    assert "�[2Jnew.csv" in text


def test_a_threshold_says_what_it_promises_and_what_the_rows_could(evaluated, said):
    print_threshold(evaluated["threshold"], 4591, 10_000)
    text = joined(said())
    assert "at most 1 % of normal rows, with 95 % confidence, by 4,591 calibration rows" in text
    assert "of 10,000 normal rows a day, at most 100 are alarms" in text
    assert "can promise 0.0653 % of false alarms, and no less. 1 % takes 299, 0.1 % 2,995, 0.01 % 29,956." in text
    print_threshold(None, 120)
    assert "no threshold is set" in said()


def alarms(record, rows):
    return {
        "table": "new.csv",
        "rows": 1000,
        "alarms": 12,
        "threshold": record["threshold"],
        "highest": rows,
        "scores": "scores.csv",
    }
