"""The page of an autoencoder, parsed: what it says first, what it says without labels, and that names stay names."""

import json
import re
import shlex

import pytest
from test_run_page import HOSTILE, Page, hostile

from convatlas.reports import render_run

NUMBERS_WITHOUT_LABELS = (
    "anomalies", "prevalence", "average_precision", "average_precision_interval", "natural_average_precision",
    "natural_average_precision_interval", "roc_auc", "false_alarms", "false_alarm_rate", "false_alarm_interval",
    "recall", "recall_interval", "precision_at_stated", "precision_recall", "by_threshold",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(anomaly_record_json):
    return Page(render_run(json.loads(anomaly_record_json)))


def without_labels(record):
    test = record["test"]
    test.update(dict.fromkeys(NUMBERS_WITHOUT_LABELS))
    test["recall_at"] = [{"false_alarm_rate": 0.01, "recall": None}, {"false_alarm_rate": 0.001, "recall": None}]
    test["distributions"] |= {"normal": None, "anomalies": None, "rows": test["distributions"]["normal"]}
    test.update(columns=[], rivals=[], misses=[], false_alarm_rows=[])
    record["data"].update(label=None, normal=None, anomalies=None)
    return record


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_is_average_precision_with_its_interval_rows_and_prevalence(page):
    text = plain(page.text)
    assert "0.861 is the average precision on 5,084 test rows, 492 of them anomalies (9.68 %); 95 % interval" in text
    assert "Guessing gives 0.097." in text
    assert "Where 0.173 % of the rows are anomalies, it is 0.427" in text


def test_the_verdict_stands_above_everything_but_the_headline(page):
    verdict = page.text.index("The network cannot be told apart from Mahalanobis, nearest neighbours and PCA")
    assert verdict < page.text.index("Found at")


def test_a_rival_that_wins_is_named_with_both_figures(anomaly_record):
    rival = anomaly_record["test"]["rivals"][0]
    rival.update(average_precision=0.951, average_precision_interval=[0.93, 0.97])
    text = Page(render_run(anomaly_record)).text
    assert f"The network is behind {rival['name']}: 0.861 against 0.951. On such rows, use that." in text


def test_rivals_and_network_stand_by_rank_in_one_table(page, anomaly_record):
    test = anomaly_record["test"]
    figures = {rival["name"]: rival["average_precision"] for rival in test["rivals"]}
    figures["network"] = test["average_precision"]
    table = page.text[page.text.index("Detector") : page.text.index("All learnt from")]
    names = sorted(figures, key=figures.get, reverse=True)
    assert re.findall("|".join(names), table) == names


def test_the_threshold_says_where_it_comes_from_and_what_it_did(page):
    text = plain(page.text)
    assert re.search(r"alarm when its score is above [\d.]+: at most 1 % of normal rows, with 95 % confidence", text)
    assert "by the scores of 4,591 normal rows that were held out for it" in text
    assert re.search(r"False alarms0\.871 % 40 of 4,592; 0\.62\d % to 1\.18 %", text)
    assert "Anomalies found80.1 % 394 of 492" in text


def test_a_score_is_not_called_a_probability(page):
    assert "probab" not in page.text.lower()
    assert "it is not how likely an anomaly is" in page.text


def test_the_rows_it_gets_wrong_are_shown_with_their_columns(page, anomaly_record):
    for row in anomaly_record["test"]["misses"] + anomaly_record["test"]["false_alarm_rows"]:
        assert f"Row {row['row']:,}" in page.text
    first = anomaly_record["test"]["misses"][0]["columns"][0]
    assert re.search(rf"{first['name']}\s*{re.escape(first['seen'])}\s*{re.escape(first['expected'])}", page.text)
    assert "6 more misses" in page.text


def test_figures_are_inline_and_described(page):
    drawings = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == 6
    assert all(drawings)


def test_data_says_how_rows_were_divided(anomaly_record):
    anomaly_record["test"] = None
    assert (
        "Divided at random with seed 0. Labels are in Class, normal rows have 0;"
        in Page(render_run(anomaly_record)).text
    )
    anomaly_record["data"]["time"] = "Time"
    assert "Divided by Time: the earliest rows were learnt from" in Page(render_run(anomaly_record)).text


def test_columns_with_many_categories_are_told_in_short(anomaly_record):
    anomaly_record["test"] = None
    shop = {"kind": "category", "name": "shop", "categories": [f"shop {i}" for i in range(1000)]}
    anomaly_record["preprocessing"]["columns"] = [shop]
    text = Page(render_run(anomaly_record)).text
    assert "shop 7, and 992 more" in text
    assert "shop 8," not in text
    assert "How its column became numbers" in text


def test_identifiers_are_unique_and_references_arrive(page):
    identifiers = page.values("id")
    assert len(identifiers) == len(set(identifiers))
    references = page.values("aria-labelledby")
    references += [path.removeprefix("url(#").removesuffix(")") for path in page.values("clip-path")]
    assert set(references) <= set(identifiers)


def test_the_page_asks_for_nothing_outside_itself(anomaly_record):
    html = render_run(anomaly_record)
    page = Page(html)
    assert page.tags().isdisjoint({"script", "link", "iframe", "object", "embed", "form", "img"})
    assert not re.search(r"@import|url\((?!#)", html)


def test_tables_have_headers_for_their_rows_and_columns(page):
    scopes = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]
    assert None not in scopes


def test_names_that_look_like_markup_or_formulas_are_shown_not_run(anomaly_record):
    record = hostile(anomaly_record)
    record["test"]["columns"][0]["name"] = "$\\frac{$"
    page = Page(render_run(record))
    assert "script" not in page.tags()
    assert f"{HOSTILE}Mahalanobis" in page.text
    assert f"{HOSTILE}V14" in page.text
    assert "$\\frac{$" in page.text


def test_without_labels_the_page_says_what_cannot_be_told(anomaly_record):
    record = without_labels(anomaly_record)
    record["test"]["drift"] = {
        "alike": False,
        "verdict": "the rows no longer look like the calibration rows",
        "columns": [{"name": "V3", "calibration_median": 0.01, "median": 0.02}],
    }
    text = plain(Page(render_run(record)).text)
    assert "How many anomalies it finds cannot be told: the 5,084 test rows have no labels." in text
    assert "There are no labels: the rows it learns from are taken to be normal." in text
    assert "The rows no longer look like the calibration rows." in text
    assert "Alarms8.54 % 434 of 5,084" in text
    assert "None" not in text


@pytest.mark.parametrize(("anomalies", "said"), [(0, "hold no anomaly"), (5084, "are all anomalies")])
def test_rows_of_one_kind_cannot_be_ranked(anomaly_record, anomalies, said):
    record = without_labels(anomaly_record)
    record["test"]["anomalies"] = anomalies
    assert said in Page(render_run(record)).text


def test_too_few_anomalies_for_an_interval(anomaly_record):
    test = anomaly_record["test"]
    for figures in (test, *test["rivals"]):
        figures.update(average_precision_interval=None, natural_average_precision_interval=None)
    text = Page(render_run(anomaly_record)).text
    assert "they are too few for an interval" in text
    assert "There are too few anomalies to tell the network from" in text
    assert "None" not in text


def test_without_a_threshold_rows_are_only_ranked(anomaly_record):
    anomaly_record["test"].update(
        dict.fromkeys(("threshold", "alarms", "false_alarms", "false_alarm_rate", "false_alarm_interval", "recall",
                       "recall_interval", "precision_at_stated")), misses=[], false_alarm_rows=[],
    )  # fmt: skip
    assert "No threshold is set, so there are no alarms" in Page(render_run(anomaly_record)).text


def test_a_run_stopped_before_its_test_or_its_first_epoch_still_has_a_page(anomaly_record):
    anomaly_record["test"] = None
    assert "No result on test rows yet" in Page(render_run(anomaly_record)).text
    anomaly_record.update(best=None, history=[], findings=[])
    page = Page(render_run(anomaly_record))
    assert "No result yet: training stopped before the first validation." in page.text
    assert "svg" not in page.tags()


def test_commands_can_be_pasted_whatever_the_run_is_called(anomaly_record):
    anomaly_record["test"] = None
    anomaly_record["run_path"] = "my runs/it's; rm -rf"
    section = Page(render_run(anomaly_record)).text.partition("Use it ")[2]
    command = re.search(r"convatlas threshold .*?0\.1%", section)[0]
    assert shlex.split(command) == ["convatlas", "threshold", "my runs/it's; rm -rf", "--false-alarms", "0.1%"]


def test_the_same_record_gives_the_same_page(anomaly_record):
    assert render_run(anomaly_record) == render_run(anomaly_record)
